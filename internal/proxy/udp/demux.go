package udp

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"
)

// forgetAfter is how long the far end keeps a flow that is silent, unless the caller's proxy says that it is over.
const forgetAfter = 10 * time.Minute

// Demux is the endpoint's end of a connection that flows share. Run carries them until the connection ends, and closes
// their sockets then.
type Demux struct {
	Conn net.Conn
	// Dial makes a UDP socket to the endpoint, for one flow.
	Dial func(ctx context.Context) (net.Conn, error)
	Max  int // flows at a time; further ones are not served

	mu    sync.Mutex
	flows map[uint32]*plain // guarded by mu
}

// Run carries flows.
func (d *Demux) Run(ctx context.Context) {
	d.flows = map[uint32]*plain{}
	var answers sync.WaitGroup
	defer answers.Wait()
	defer d.closeAll()
	buffer := make([]byte, maxDatagram)
	for {
		n, err := d.Conn.Read(buffer)
		if err != nil || n < muxHeader {
			return
		}
		id, payload := binary.BigEndian.Uint32(buffer), buffer[muxHeader:n]
		c := d.flow(id)
		switch {
		case buffer[4] == muxEnd:
			if c != nil {
				c.Close()
			}
			continue
		case buffer[4] != muxData:
			continue
		case c == nil:
			if c = d.begin(ctx, id); c == nil {
				continue
			}
			answers.Go(func() { d.answer(id, c) })
		}
		if _, err := c.Write(payload); errors.Is(err, syscall.ECONNREFUSED) {
			d.refused(id)
		}
		_ = c.SetReadDeadline(time.Now().Add(forgetAfter)) // fails on a socket that is closed
	}
}

func (d *Demux) flow(id uint32) *plain {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.flows[id]
}

func (d *Demux) begin(ctx context.Context, id uint32) *plain {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.flows) >= d.Max {
		return nil
	}
	c, err := d.Dial(ctx)
	if err != nil {
		return nil
	}
	p := &plain{UDPConn: c.(*net.UDPConn)}
	if p.socket, err = newSocket(p.UDPConn); err != nil {
		c.Close()
		return nil
	}
	d.flows[id] = p
	return p
}

func (d *Demux) refused(id uint32) {
	_, _ = d.Conn.Write(muxFrame(id, muxRefused, nil)) // what fails shows in reading, too
}

// answer carries what the endpoint says in one flow.
func (d *Demux) answer(id uint32, c *plain) {
	defer func() {
		c.Close()
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.flows, id)
	}()
	for {
		in, err := c.receive()
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			d.refused(id)
			return
		case err != nil:
			return
		}
		_, err = d.Conn.Write(muxFrame(id, muxData, in.payload()))
		in.free()
		if err != nil {
			return
		}
		_ = c.SetReadDeadline(time.Now().Add(forgetAfter)) // as above
	}
}

func (d *Demux) closeAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.flows {
		c.Close()
	}
}
