//go:build linux

package holder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

// session is the talk with one worker. Its goroutine owns the holder's sockets until done is closed.
type session struct {
	conn    *net.UnixConn
	sockets sockets
	hello   Hello
	beats   atomic.Uint64
	ready   func()
	leave   func()
	note    atomic.Pointer[string]
	log     *slog.Logger
	done    chan struct{}
}

// run greets the worker and answers it until it is gone. Should the talk fail before, the worker will be missed.
func (s *session) run(ctx context.Context) {
	defer close(s.done)
	defer s.conn.Close()
	if err := s.talk(ctx); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.EPIPE) {
		s.log.Error("talk with the worker failed", "err", err)
	}
}

func (s *session) talk(ctx context.Context) error {
	if err := s.greet(); err != nil {
		return err
	}
	for r := newReceiver(s.conn); ; {
		m, fds, err := r.receive()
		closeAll(fds)
		if err != nil {
			return err
		}
		if err := s.handle(ctx, m); err != nil {
			return err
		}
	}
}

// end is called when the worker has ended: it waits until what it sent last is heard.
func (s *session) end() {
	s.conn.SetReadDeadline(time.Now().Add(time.Second)) //nolint:errcheck // it fails if the talk is over
	<-s.done
}

// greet hands over everything the holder has. The deadline is for a worker that doesn't read.
func (s *session) greet() error {
	if err := s.conn.SetWriteDeadline(time.Now().Add(replyTimeout)); err != nil {
		return err
	}
	all := s.sockets.sorted()
	for len(all) > 0 {
		part := all[:min(len(all), batch)]
		all = all[len(part):]
		fds := make([]int, 0, len(part))
		for _, k := range part {
			fds = append(fds, s.sockets[k])
		}
		if err := send(s.conn, message{Kind: kindSocket, Sockets: part}, fds...); err != nil {
			return err
		}
	}
	return send(s.conn, message{Kind: kindHello, Hello: &s.hello})
}

func (s *session) handle(ctx context.Context, m message) error {
	var fds []int
	reply := message{Kind: kindReply}
	switch m.Kind {
	case kindBeat:
		s.beats.Add(1)
		return nil
	case kindListen:
		fds, reply = s.listen(ctx, m)
	case kindRelease:
		for _, k := range m.Sockets {
			s.sockets.release(k)
		}
	case kindReady:
		s.ready()
	case kindLeave:
		s.leave()
	case kindRemember:
		s.note.Store(&m.Note)
	default:
		return fmt.Errorf("unknown message %q", m.Kind)
	}
	if err := s.conn.SetWriteDeadline(time.Now().Add(replyTimeout)); err != nil {
		return err
	}
	return send(s.conn, reply, fds...)
}

func (s *session) listen(ctx context.Context, m message) ([]int, message) {
	if len(m.Sockets) != 1 {
		return nil, message{Kind: kindReply, Error: "listen takes one socket"}
	}
	fd, err := s.sockets.get(ctx, m.Sockets[0])
	if err != nil {
		reply := message{Kind: kindReply, Error: err.Error()}
		if errno := syscall.Errno(0); errors.As(err, &errno) {
			reply.Errno = int(errno)
		}
		return nil, reply
	}
	return []int{fd}, message{Kind: kindReply}
}
