package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"time"

	"github.com/tulle-mesh/tulle/integration/images/report"
)

// holdEvery is how often hold says something.
const holdEvery = 20 * time.Millisecond

// hold keeps a TCP connection (tcp://host:port), a WebSocket (ws://host/path) or a UDP flow (udp://host:port) and goes on
// saying something until it gets no answer any more: see report.Held.
func hold(ctx context.Context, args []string, out io.Writer) error {
	f := flag.NewFlagSet("hold", flag.ContinueOnError)
	atMost := f.Duration("duration", time.Minute, "how long at most, from when there is a connection")
	silence := f.Duration("silence", 2*time.Second, "how long an answer is waited for")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() != 1 {
		return errors.New("hold: want one URL")
	}
	u, err := url.Parse(f.Arg(0))
	if err != nil {
		return err
	}
	s := streamFlags{timeout: *silence, send: "hello", target: u.Host}
	c, echo, err := s.open(ctx, u)
	if err != nil {
		return printJSON(out, report.Held{At: time.Now(), Error: err.Error()})
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, *atMost)
	defer cancel()
	last := time.Now()
	for open := false; ; {
		if err := echo(); err != nil {
			if u.Scheme != "udp" { // whose end is the last answer
				last = time.Now()
			}
			return printJSON(out, report.Held{At: last, Error: err.Error()})
		}
		last = time.Now()
		if !open {
			open = true
			if err := printJSON(out, report.Held{Open: true, At: last}); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return printJSON(out, report.Held{Open: true, At: time.Now()})
		case <-time.After(holdEvery):
		}
	}
}

// open makes a connection of the URL's kind, and what says something on it and waits for the answer.
func (s *streamFlags) open(ctx context.Context, u *url.URL) (net.Conn, func() error, error) {
	switch u.Scheme {
	case "udp":
		c, err := s.dial(ctx, "udp", s.target)
		return c, func() error { return s.udpOnce(c).err }, err
	case "tcp":
		c, err := s.dial(ctx, "tcp", s.target)
		return c, func() error { return s.echoOnce(c, c) }, err
	case "ws":
		c, r, _, err := s.upgraded(ctx, u)
		return c, func() error { return s.echoOnce(c, r) }, err
	}
	return nil, nil, fmt.Errorf("%s: want tcp, ws or udp", u)
}

// echoOnce says something and expects it back.
func (s *streamFlags) echoOnce(c net.Conn, r io.Reader) error {
	if err := c.SetDeadline(time.Now().Add(s.timeout)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, s.send); err != nil {
		return shorten(err)
	}
	b := make([]byte, len(s.send))
	if _, err := io.ReadFull(r, b); err != nil {
		return shorten(err)
	}
	if string(b) != s.send {
		return fmt.Errorf("the echo is %.100q", b)
	}
	return nil
}
