//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// What is asked for by those who read slowly.
const (
	tenantLong     = "/long"
	tenantLongSize = 1 << 20
)

// serving is a backend or, with a rate, the sink. It answers with as little work as can be, so that the CPU that it shares
// with those who measure is not what is measured.
type serving struct {
	Body string
	Rate float64 // answers a second at most; 0 = as many as can be

	mu   sync.Mutex
	next time.Time // when the next answer may be given; guarded by mu
}

func (s *serving) run(ctx context.Context, _ io.Reader, out io.Writer) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	fmt.Fprintf(out, "%q\n", l.Addr())
	answers := map[bool][]byte{false: tenantAnswer(s.Body), true: tenantAnswer(strings.Repeat("x", tenantLongSize))}
	for {
		c, err := l.Accept()
		if err != nil {
			return ctx.Err()
		}
		go func() {
			defer c.Close()
			s.answer(c, answers)
		}()
	}
}

func tenantAnswer(body string) []byte {
	return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// answer answers until the client has gone. Heads are taken as they are: the proxy and its tests judge them.
func (s *serving) answer(c net.Conn, answers map[bool][]byte) {
	for r := bufio.NewReader(c); ; {
		line, err := r.ReadSlice('\n')
		long := bytes.HasPrefix(line, []byte("GET "+tenantLong))
		for err == nil && len(line) > 2 {
			line, err = r.ReadSlice('\n')
		}
		if err != nil {
			return
		}
		s.turn()
		if _, err := c.Write(answers[long]); err != nil {
			return
		}
	}
}

// turn waits until an answer may be given. All connections have the same turn, as at a proxy that lets nobody wait longer
// than others.
func (s *serving) turn() {
	if s.Rate == 0 {
		return
	}
	s.mu.Lock()
	now := time.Now()
	if s.next.Before(now) {
		s.next = now
	}
	at := s.next
	s.next = at.Add(time.Duration(float64(time.Second) / s.Rate))
	s.mu.Unlock()
	if d := at.Sub(now); d > time.Millisecond { // less is not worth a timer
		<-time.After(d)
	}
}
