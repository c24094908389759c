package udp

import (
	"context"
	"encoding/binary"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

// Flows of one caller to one endpoint of another node share a tunnelled connection, as a TLS connection for each would
// cost a thousand times what a flow does. Every datagram in it begins with the number of its flow and a sign of what it is.
const muxHeader = 5

// The signs.
const (
	muxData    byte = iota // a datagram
	muxEnd                 // from the caller: the flow is over
	muxRefused             // from the endpoint: nobody listens there
)

func muxFrame(id uint32, sign byte, payload []byte) []byte {
	b := make([]byte, muxHeader, muxHeader+len(payload))
	binary.BigEndian.PutUint32(b, id)
	b[4] = sign
	return append(b, payload...)
}

// inbox is how many datagrams wait for a flow, or for a connection that is being made; further ones are lost.
const inbox = 64

// mux is the caller's end of a shared connection. It ends with its last flow, or with the connection.
type mux struct {
	server *Server
	way    *upstream.Way
	cancel context.CancelFunc

	mu      sync.Mutex
	conn    net.Conn // nil until it is made; guarded by mu, as all that follows
	pending [][]byte
	flows   map[uint32]*muxed
	last    uint32
	over    bool
}

// join begins a flow on the connection that a way's flows share.
func (s *Server) join(w *upstream.Way) *muxed {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.muxes[w]
	if m == nil || !m.open() {
		ctx, cancel := context.WithCancel(context.Background())
		m = &mux{server: s, way: w, cancel: cancel, flows: map[uint32]*muxed{}}
		s.muxes[w] = m
		s.carrying.Go(func() { m.run(ctx) })
	}
	return m.add()
}

// open says that flows may be added: those that begin later than the certificates allow get a connection with newer ones.
// Only who holds the server's mutex adds any.
func (m *mux) open() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	ages, ok := m.conn.(interface{ Fresh() time.Time })
	return !m.over && (!ok || time.Now().Before(ages.Fresh()))
}

func (m *mux) add() *muxed {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last++
	f := &muxed{mux: m, id: m.last, in: make(chan *datagram, inbox), done: make(chan struct{}), refused: make(chan struct{}, 1)}
	if m.over { // since open said that it isn't
		close(f.done)
		return f
	}
	m.flows[f.id] = f
	return f
}

// run makes the connection and hands datagrams to their flows until it ends.
func (m *mux) run(ctx context.Context) {
	defer m.end()
	defer func() {
		if p := recover(); p != nil {
			m.server.panicked(p)
		}
	}()
	conn, err := m.way.Dial(ctx)
	if err != nil {
		m.server.config.Log.Debug("udp: no tunnel", "err", err)
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	m.mu.Lock()
	for _, b := range m.pending {
		_, _ = conn.Write(b) // what fails shows in reading, too
	}
	m.conn, m.pending = conn, nil
	m.mu.Unlock()
	for {
		d := buffers.Get().(*datagram)
		n, err := conn.Read(d.data[:])
		if err != nil || n < muxHeader {
			d.free()
			return
		}
		m.deliver(d, n)
	}
}

func (m *mux) deliver(d *datagram, n int) {
	id, sign := binary.BigEndian.Uint32(d.data[:]), d.data[4]
	d.n = copy(d.data[:], d.data[muxHeader:n])
	m.mu.Lock()
	f := m.flows[id]
	m.mu.Unlock()
	switch {
	case f == nil:
	case sign == muxRefused:
		select {
		case f.refused <- struct{}{}:
		default:
		}
	case sign == muxData:
		select {
		case f.in <- d:
			return
		default: // lost
		}
	}
	d.free()
}

// end ends all flows.
func (m *mux) end() {
	m.server.mu.Lock()
	if m.server.muxes[m.way] == m {
		delete(m.server.muxes, m.way)
	}
	m.server.mu.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.over = true
	for _, f := range m.flows {
		close(f.done)
	}
	clear(m.flows)
}

func (m *mux) send(b []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.over:
		return net.ErrClosed
	case m.conn != nil:
		_, err := m.conn.Write(b) // which doesn't wait
		return err                //nolint:wrapcheck // counts as a lost datagram
	case len(m.pending) < inbox:
		m.pending = append(m.pending, b)
	}
	return nil
}

// leave takes a flow out. The last one ends the connection.
func (m *mux) leave(f *muxed) {
	_ = m.send(muxFrame(f.id, muxEnd, nil)) // the other end forgets flows by itself, later
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.flows[f.id] == f {
		delete(m.flows, f.id)
		close(f.done)
	}
	if len(m.flows) == 0 {
		m.over = true
		m.cancel()
	}
}

// muxed is a flow's part of a shared connection.
type muxed struct {
	mux     *mux
	id      uint32
	in      chan *datagram
	done    chan struct{} // closed at the end
	refused chan struct{}

	mu       sync.Mutex
	deadline time.Time // guarded by mu
}

func (f *muxed) Write(b []byte) (int, error) {
	return len(b), f.mux.send(muxFrame(f.id, muxData, b))
}

func (f *muxed) SetReadDeadline(t time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deadline = t
	return nil
}

func (f *muxed) Close() error {
	f.mux.leave(f)
	return nil
}

func (f *muxed) receive() (*datagram, error) {
	f.mu.Lock()
	late := time.NewTimer(time.Until(f.deadline))
	f.mu.Unlock()
	defer late.Stop()
	select {
	case d := <-f.in:
		return d, nil
	case <-f.done:
		return nil, net.ErrClosed
	case <-f.refused:
		return nil, syscall.ECONNREFUSED
	case <-late.C:
		return nil, os.ErrDeadlineExceeded
	}
}
