//go:build linux

package holder

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"
)

// workerFD is where a worker finds its end of the socket pair.
const workerFD = 3

// batch is how many sockets go in one packet; the kernel takes 253.
const batch = 100

// socket names a listening socket.
type socket struct {
	Network string `json:"n"` // "tcp" or "udp"
	Address string `json:"a"` // as it was asked for, e.g. ":16000"
}

func (s socket) String() string { return s.Network + " " + s.Address }

// message is one packet between holder and worker. A worker is greeted with "socket" packets, one file descriptor per
// socket, and a "hello"; from then on it asks and the holder replies, in order. A "beat" has no reply.
type message struct {
	Kind    string   `json:"k"`
	Sockets []socket `json:"s,omitempty"`
	Hello   *Hello   `json:"h,omitempty"`
	Note    string   `json:"t,omitempty"`
	Error   string   `json:"e,omitempty"`
	Errno   int      `json:"o,omitempty"` // so that errors.Is works on the other side
}

// The kinds of messages.
const (
	kindSocket   = "socket"   // to the worker
	kindHello    = "hello"    // to the worker
	kindReply    = "reply"    // to the worker
	kindBeat     = "beat"     // to the holder, as are those below
	kindListen   = "listen"   // one socket; the reply carries it
	kindRelease  = "release"  // any sockets
	kindReady    = "ready"    // the worker serves
	kindLeave    = "leave"    // others serve instead
	kindRemember = "remember" // a note for the next worker
)

func send(c *net.UnixConn, m message, fds ...int) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode %s: %w", m.Kind, err)
	}
	var rights []byte
	if len(fds) > 0 {
		rights = syscall.UnixRights(fds...)
	}
	if _, _, err := c.WriteMsgUnix(b, rights, nil); err != nil {
		return fmt.Errorf("send %s: %w", m.Kind, err)
	}
	return nil
}

// receiver reads messages; it is used by one goroutine at a time.
type receiver struct {
	conn      *net.UnixConn
	data, oob []byte
}

func newReceiver(c *net.UnixConn) *receiver {
	return &receiver{conn: c, data: make([]byte, 1<<16), oob: make([]byte, syscall.CmsgSpace(batch*4))}
}

// receive returns the next message and its file descriptors; io.EOF when the other side is gone.
func (r *receiver) receive() (message, []int, error) {
	n, oobn, flags, _, err := r.conn.ReadMsgUnix(r.data, r.oob)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), err == nil && n == 0:
		return message{}, nil, io.EOF
	case err != nil:
		return message{}, nil, fmt.Errorf("receive: %w", err)
	}
	fds, err := rights(r.oob[:oobn])
	if err != nil {
		return message{}, nil, fmt.Errorf("receive: %w", err)
	}
	var m message
	if err := json.Unmarshal(r.data[:n], &m); err != nil {
		closeAll(fds)
		return message{}, nil, fmt.Errorf("decode a message: %w", err)
	}
	if flags&syscall.MSG_CTRUNC != 0 {
		closeAll(fds)
		return message{}, nil, fmt.Errorf("receive %s: not all sockets fitted: %w", m.Kind, syscall.EMFILE)
	}
	return m, fds, nil
}

func rights(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	cmsgs, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var all []int
	for _, c := range cmsgs {
		fds, err := syscall.ParseUnixRights(&c)
		if err != nil {
			closeAll(all)
			return nil, err
		}
		all = append(all, fds...)
	}
	return all, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		syscall.Close(fd)
	}
}

// replyTimeout is for answers that take microseconds: past it the other side is as good as gone.
const replyTimeout = 10 * time.Second
