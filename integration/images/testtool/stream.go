package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// streamFlags are those of tcp, udp and ws.
type streamFlags struct {
	n, parallel int
	timeout     time.Duration
	send        string
	target      string
}

func (s *streamFlags) parse(name string, args []string, more func(*flag.FlagSet)) error {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.IntVar(&s.n, "n", 1, "calls")
	f.IntVar(&s.parallel, "c", 1, "calls at once")
	f.DurationVar(&s.timeout, "timeout", 5*time.Second, "of a call")
	f.StringVar(&s.send, "send", "hello", "what to send")
	if more != nil {
		more(f)
	}
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() != 1 {
		return fmt.Errorf("%s: want one address", name)
	}
	s.target = f.Arg(0)
	return nil
}

func (s *streamFlags) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: s.timeout}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, shorten(err)
	}
	return c, c.SetDeadline(time.Now().Add(s.timeout))
}

// tcp sends a line, closes its half, and expects the line back and the server's name; the banner form the name first.
func tcp(ctx context.Context, args []string, out io.Writer) error {
	var s streamFlags
	banner := false
	if err := s.parse("tcp", args, func(f *flag.FlagSet) { f.BoolVar(&banner, "banner", false, "the server speaks first") }); err != nil {
		return err
	}
	t := repeat(s.n, s.parallel, func(int) outcome { return s.tcpOnce(ctx, banner) })
	return printJSON(out, t.summary())
}

func (s *streamFlags) tcpOnce(ctx context.Context, banner bool) outcome {
	c, err := s.dial(ctx, "tcp", s.target)
	if err != nil {
		return outcome{err: err}
	}
	defer c.Close()
	r := bufio.NewReader(c)
	var name string
	if banner {
		if name, err = r.ReadString('\n'); err != nil {
			return outcome{err: shorten(err)}
		}
	}
	if _, err := fmt.Fprintln(c, s.send); err != nil {
		return outcome{err: shorten(err)}
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return outcome{err: shorten(err)}
	}
	rest, err := io.ReadAll(r)
	if err != nil {
		return outcome{err: shorten(err)}
	}
	after, ok := strings.CutPrefix(string(rest), s.send+"\n")
	if !ok {
		return outcome{err: fmt.Errorf("the echo is %.100q", rest)}
	}
	a := parseName(name + after)
	if a.Pod == "" {
		return outcome{err: errors.New("the server did not say its name")}
	}
	return outcome{answer: a}
}

// udp expects every datagram back with the server's name before it, each on a socket of its own unless told otherwise.
func udp(ctx context.Context, args []string, out io.Writer) error {
	var s streamFlags
	same := false
	if err := s.parse("udp", args, func(f *flag.FlagSet) { f.BoolVar(&same, "same", false, "one socket for all calls") }); err != nil {
		return err
	}
	if !same {
		t := repeat(s.n, s.parallel, func(int) outcome {
			c, err := s.dial(ctx, "udp", s.target)
			if err != nil {
				return outcome{err: err}
			}
			defer c.Close()
			return s.udpOnce(c)
		})
		return printJSON(out, t.summary())
	}
	c, err := s.dial(ctx, "udp", s.target)
	if err != nil {
		return err
	}
	defer c.Close()
	t := repeat(s.n, 1, func(int) outcome { return s.udpOnce(c) })
	return printJSON(out, t.summary())
}

func (s *streamFlags) udpOnce(c net.Conn) outcome {
	if err := c.SetDeadline(time.Now().Add(s.timeout)); err != nil {
		return outcome{err: err}
	}
	if _, err := io.WriteString(c, s.send); err != nil {
		return outcome{err: shorten(err)}
	}
	b := make([]byte, 64<<10)
	n, err := c.Read(b)
	if err != nil {
		return outcome{err: shorten(err)}
	}
	name, ok := strings.CutSuffix(string(b[:n]), " "+s.send)
	if !ok {
		return outcome{err: fmt.Errorf("the echo is %.100q", b[:n])}
	}
	return outcome{answer: parseName(name)}
}

// ws upgrades a connection to WebSocket and expects the bytes back that it sends then.
func ws(ctx context.Context, args []string, out io.Writer) error {
	var s streamFlags
	if err := s.parse("ws", args, nil); err != nil {
		return err
	}
	u, err := url.Parse(s.target)
	if err != nil {
		return err
	}
	t := repeat(s.n, s.parallel, func(int) outcome { return s.wsOnce(ctx, u) })
	return printJSON(out, t.summary())
}

func (s *streamFlags) wsOnce(ctx context.Context, u *url.URL) outcome {
	c, r, status, err := s.upgraded(ctx, u)
	if err != nil {
		return outcome{status: status, err: err}
	}
	defer c.Close()
	return outcome{status: status, err: s.echoOnce(c, r)}
}

// upgraded is a connection that has become a WebSocket, with a reader of what comes, and the status of the answer.
func (s *streamFlags) upgraded(ctx context.Context, u *url.URL) (net.Conn, *bufio.Reader, int, error) {
	addr := u.Host
	if u.Port() == "" {
		addr = net.JoinHostPort(u.Hostname(), "80")
	}
	c, err := s.dial(ctx, "tcp", addr)
	if err != nil {
		return nil, nil, 0, err
	}
	key := rand.Text()
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n",
		u.RequestURI(), u.Host, key)
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, nil)
	switch {
	case err != nil:
		c.Close()
		return nil, nil, 0, shorten(err)
	case res.StatusCode != http.StatusSwitchingProtocols:
		c.Close()
		return nil, nil, res.StatusCode, errors.New(res.Status)
	case res.Header.Get("Sec-Websocket-Accept") != acceptKey(key):
		c.Close()
		return nil, nil, res.StatusCode, errors.New("wrong Sec-WebSocket-Accept")
	}
	return c, r, res.StatusCode, nil
}
