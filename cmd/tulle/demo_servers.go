package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// demoServers are the applications behind the demo's services.
type demoServers struct {
	closers []io.Closer
	// ports are where they listen, by the port that the examples name, which another program may have.
	ports map[int]int
}

func startDemoServers(ctx context.Context) (*demoServers, error) {
	d := &demoServers{ports: map[int]int{}}
	err := errors.Join(d.web(ctx, "v1", 18081), d.web(ctx, "v2", 18082), d.ledger(ctx, 18083), d.gauge(ctx, 18084))
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("start the demo's applications: %w", err)
	}
	return d, nil
}

// Close ends them all.
func (d *demoServers) Close() {
	for _, c := range d.closers {
		_ = c.Close() // the demo is over
	}
}

// moved says in an example's YAML where the applications listen.
func (d *demoServers) moved(yaml string) string {
	var pairs []string
	for named, port := range d.ports {
		pairs = append(pairs, strconv.Itoa(named), strconv.Itoa(port))
	}
	return strings.NewReplacer(pairs...).Replace(yaml)
}

// listenDemo opens a socket on the port that the examples name, or on any, if that is taken.
func listenDemo[S io.Closer](d *demoServers, named int, open func(address string) (S, error), port func(S) int) (S, error) {
	s, err := open(fmt.Sprintf("127.0.0.1:%d", named))
	if errors.Is(err, syscall.EADDRINUSE) {
		s, err = open("127.0.0.1:0")
	}
	if err == nil {
		d.closers = append(d.closers, s)
		d.ports[named] = port(s)
	}
	return s, err
}

func (d *demoServers) listen(ctx context.Context, named int) (net.Listener, error) {
	var lc net.ListenConfig
	return listenDemo(d, named,
		func(address string) (net.Listener, error) { return lc.Listen(ctx, "tcp", address) },
		func(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port })
}

func (d *demoServers) listenPacket(ctx context.Context, named int) (net.PacketConn, error) {
	var lc net.ListenConfig
	return listenDemo(d, named,
		func(address string) (net.PacketConn, error) { return lc.ListenPacket(ctx, "udp", address) },
		func(c net.PacketConn) int { return c.LocalAddr().(*net.UDPAddr).Port })
}

// web answers every request with its version.
func (d *demoServers) web(ctx context.Context, version string, port int) error {
	l, err := d.listen(ctx, port)
	if err != nil {
		return err
	}
	s := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "version=%s host=%s path=%s\n", version, r.Host, r.URL.Path)
		}),
	}
	d.closers = append(d.closers, s)
	go s.Serve(l) //nolint:errcheck // it always ends with ErrServerClosed
	return nil
}

// ledger greets first, as many TCP protocols do, then echoes lines.
func (d *demoServers) ledger(ctx context.Context, port int) error {
	l, err := d.listen(ctx, port)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintln(c, "ledger ready")
				for lines := bufio.NewScanner(c); lines.Scan(); {
					fmt.Fprintln(c, "booked", lines.Text())
				}
			}()
		}
	}()
	return nil
}

// gauge acknowledges datagrams.
func (d *demoServers) gauge(ctx context.Context, port int) error {
	c, err := d.listenPacket(ctx, port)
	if err != nil {
		return err
	}
	go func() {
		buf := make([]byte, 65535)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(append([]byte("counted "), buf[:n]...), from) // datagrams may be lost
		}
	}()
	return nil
}
