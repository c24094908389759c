package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/integration/images/report"
)

// server answers on many ports at once; who it is comes from the pod's environment.
type server struct {
	self   report.Answer
	status int           // of HTTP answers whose request asks for none
	linger time.Duration // how long it goes on as if nothing was after SIGTERM
	drain  time.Duration // and then tells HTTP clients to leave, before it closes
	bye    atomic.Bool   // it does so
	wg     sync.WaitGroup
}

// serve listens until SIGTERM. Every address flag takes host:port, host:from-to, and commas between several.
func serve(ctx context.Context, args []string, out io.Writer) error {
	f := flag.NewFlagSet("serve", flag.ContinueOnError)
	http := f.String("http", "", "HTTP/1.1 and h2c (default :8080 when nothing else is asked for)")
	https := f.String("https", "", "the same over TLS with a certificate of its own")
	echo := f.String("tcp", "", "TCP echo; after the client's half-close it says its name and closes")
	banner := f.String("banner", "", "TCP echo that says its name first")
	udp := f.String("udp", "", "UDP echo, with its name before the payload")
	linger := f.Duration("linger", 0, "time between SIGTERM and the end of listening")
	status := f.Int("status", 200, "of HTTP answers whose request asks for no other")
	drain := f.Duration("drain", 0, "time after that in which HTTP responses say 'Connection: close'")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *http+*https+*echo+*banner+*udp == "" {
		*http = ":8080"
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	s := &server{status: *status, linger: *linger, drain: *drain, self: report.Answer{
		Pod: cmp.Or(os.Getenv("POD_NAME"), host), Node: os.Getenv("NODE_NAME"), Version: os.Getenv("VERSION"),
	}}
	kinds := []struct {
		addrs  string
		listen func(context.Context, string) error
	}{{*http, s.http}, {*https, s.https}, {*echo, s.tcpEcho}, {*banner, s.tcpBanner}, {*udp, s.udpEcho}}
	for _, k := range kinds {
		addrs, err := expandAddrs(k.addrs)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if err := k.listen(ctx, a); err != nil {
				return err
			}
		}
	}
	fmt.Fprintln(out, "serving as", s.self.Pod)
	s.wg.Wait()
	return nil
}

// expandAddrs turns "host:from-to,..." into single addresses.
func expandAddrs(s string) ([]string, error) {
	var addrs []string
	for a := range strings.SplitSeq(s, ",") {
		if a == "" {
			continue
		}
		host, ports, err := net.SplitHostPort(a)
		if err != nil {
			return nil, err
		}
		from, to, isRange := strings.Cut(ports, "-")
		if !isRange {
			to = from
		}
		lo, err1 := strconv.Atoi(from)
		hi, err2 := strconv.Atoi(to)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("ports of %q: %w", a, err)
		}
		for p := lo; p <= hi; p++ {
			addrs = append(addrs, net.JoinHostPort(host, strconv.Itoa(p)))
		}
	}
	return addrs, nil
}

// atEnd runs f some time after SIGTERM and keeps the program alive until it returns.
func (s *server) atEnd(ctx context.Context, f func()) {
	s.wg.Go(func() {
		<-ctx.Done()
		time.Sleep(s.linger)
		s.bye.Store(true)
		time.Sleep(s.drain)
		f()
	})
}

func (s *server) name() string {
	return fmt.Sprintf("pod=%s node=%s version=%s", s.self.Pod, s.self.Node, s.self.Version)
}

// parseName is the other direction of name.
func parseName(line string) report.Answer {
	var a report.Answer
	for field := range strings.FieldsSeq(line) {
		switch k, v, _ := strings.Cut(field, "="); k {
		case "pod":
			a.Pod = v
		case "node":
			a.Node = v
		case "version":
			a.Version = v
		}
	}
	return a
}
