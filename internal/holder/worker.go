//go:build linux

package holder

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// ErrNoHolder means that the process wasn't started by a holder.
var ErrNoHolder = errors.New("not started by a holder")

// Hello is what a worker is told when it starts.
type Hello struct {
	// Crashes counts the workers before this one, in a row, that soon ended by themselves: by a panic, say. One that was
	// killed doesn't count.
	Crashes int `json:"crashes"`
	// Restarts counts the workers before this one.
	Restarts int `json:"restarts"`
	// Stopping is when the holder was told to stop: the worker is to go on with that, not to begin anew. Zero if it
	// wasn't.
	Stopping time.Time `json:"stopping"`
	// Note is what the last worker gave to Remember.
	Note string `json:"note,omitempty"`
}

// Worker is a worker's side of the holder. Its methods may be called by any goroutine.
type Worker struct {
	// Hello is what the holder said at the start.
	Hello Hello

	mu        sync.Mutex // one request at a time; it covers all below
	conn      *net.UnixConn
	in        *receiver
	inherited map[socket]*os.File
}

// Attach is called once, first of all, in a process that a holder started. It takes over all sockets that the holder
// has: Listen finds them.
func Attach() (*Worker, error) {
	// In a process that no holder started, the number may be anything that is not to be touched.
	if kind, err := syscall.GetsockoptInt(workerFD, syscall.SOL_SOCKET, syscall.SO_TYPE); err != nil || kind != syscall.SOCK_SEQPACKET {
		return nil, ErrNoHolder
	}
	f := os.NewFile(workerFD, "holder")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoHolder, err)
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, ErrNoHolder
	}
	w := &Worker{conn: conn, in: newReceiver(conn), inherited: map[socket]*os.File{}}
	if err := w.greeting(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("take over sockets: %w", err)
	}
	return w, nil
}

func (w *Worker) greeting() error {
	if err := w.conn.SetReadDeadline(time.Now().Add(replyTimeout)); err != nil {
		return err
	}
	for {
		m, fds, err := w.in.receive()
		if err != nil {
			return err
		}
		switch {
		case m.Kind == kindSocket && len(fds) == len(m.Sockets):
			for i, k := range m.Sockets {
				w.inherited[k] = os.NewFile(uintptr(fds[i]), k.String())
			}
		case m.Kind == kindHello && m.Hello != nil:
			w.Hello = *m.Hello
			return nil
		default:
			closeAll(fds)
			return fmt.Errorf("unexpected %s with %d sockets", m.Kind, len(fds))
		}
	}
}

// Listen returns the TCP listener at address ("host:port"), the holder's if it has it. An address in use fails with
// syscall.EADDRINUSE. Closing the listener leaves the socket with the holder; see Release.
func (w *Worker) Listen(_ context.Context, address string) (net.Listener, error) {
	f, err := w.socket(socket{"tcp", address})
	if err != nil {
		return nil, fmt.Errorf("listen on tcp %s: %w", address, err)
	}
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("listen on tcp %s: %w", address, err)
	}
	return l, nil
}

// ListenPacket is Listen for UDP.
func (w *Worker) ListenPacket(_ context.Context, address string) (*net.UDPConn, error) {
	f, err := w.socket(socket{"udp", address})
	if err != nil {
		return nil, fmt.Errorf("listen on udp %s: %w", address, err)
	}
	defer f.Close()
	p, err := net.FilePacketConn(f)
	if err != nil {
		return nil, fmt.Errorf("listen on udp %s: %w", address, err)
	}
	return p.(*net.UDPConn), nil
}

// Release makes the holder close a socket: no worker serves it any more. network is "tcp" or "udp". If the holder is
// gone, so is the socket.
func (w *Worker) Release(network, address string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	k := socket{network, address}
	if f, ok := w.inherited[k]; ok {
		delete(w.inherited, k)
		f.Close()
	}
	w.request(message{Kind: kindRelease, Sockets: []socket{k}}) //nolint:errcheck // see the comment of Release
}

// Settle releases what an earlier worker served and nobody has asked for since: call it when a whole config is in use.
func (w *Worker) Settle() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []socket
	for k, f := range w.inherited {
		f.Close()
		all = append(all, k)
	}
	clear(w.inherited)
	for len(all) > 0 {
		part := all[:min(len(all), batch)]
		all = all[len(part):]
		if _, err := w.request(message{Kind: kindRelease, Sockets: part}); err != nil {
			return fmt.Errorf("release sockets: %w", err)
		}
	}
	return nil
}

// Ready tells the holder that this worker serves.
func (w *Worker) Ready() error { return w.tell(message{Kind: kindReady}) }

// Leave tells the holder that others serve instead, whatever this worker and those after it still do.
func (w *Worker) Leave() error { return w.tell(message{Kind: kindLeave}) }

// Remember makes the holder give note to the next worker, if there will be one.
func (w *Worker) Remember(note string) error { return w.tell(message{Kind: kindRemember, Note: note}) }

func (w *Worker) tell(m message) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.request(m); err != nil {
		return fmt.Errorf("tell the holder %s: %w", m.Kind, err)
	}
	return nil
}

// Beat tells the holder every BeatInterval that the worker lives, after alive returned: alive goes where a hang would
// show (it takes the data path's locks, say) and blocks while the worker can't serve. Beat returns nil when ctx is done
// and an error when the holder is gone.
func (w *Worker) Beat(ctx context.Context, alive func()) error {
	tick := time.NewTicker(BeatInterval)
	defer tick.Stop()
	for {
		alive()
		// Not under the lock: a request that waits for the holder is no hang of this worker.
		if err := send(w.conn, message{Kind: kindBeat}); err != nil {
			return fmt.Errorf("the holder is gone: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// socket returns the socket; the caller closes the file.
func (w *Worker) socket(k socket) (*os.File, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if f, ok := w.inherited[k]; ok {
		delete(w.inherited, k)
		return f, nil
	}
	fds, err := w.request(message{Kind: kindListen, Sockets: []socket{k}})
	if err != nil {
		return nil, err
	}
	if len(fds) != 1 {
		closeAll(fds)
		return nil, fmt.Errorf("the holder sent %d sockets", len(fds))
	}
	return os.NewFile(uintptr(fds[0]), k.String()), nil
}

// request sends m and waits for the reply; w.mu is held.
func (w *Worker) request(m message) ([]int, error) {
	if err := send(w.conn, m); err != nil {
		return nil, err
	}
	if err := w.conn.SetReadDeadline(time.Now().Add(replyTimeout)); err != nil {
		return nil, err
	}
	reply, fds, err := w.in.receive()
	switch {
	case err != nil:
		// A reply that came later would be taken for another request's. Without a holder Beat ends the worker.
		w.conn.Close()
		return nil, fmt.Errorf("the holder is gone: %w", err)
	case reply.Errno != 0:
		return nil, syscall.Errno(reply.Errno)
	case reply.Error != "":
		return nil, errors.New(reply.Error)
	}
	return fds, nil
}
