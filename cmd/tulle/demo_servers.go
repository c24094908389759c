package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// demoServers are the applications behind the demo's services, on the ports that its examples name.
type demoServers struct{ closers []io.Closer }

func startDemoServers(ctx context.Context) (*demoServers, error) {
	d := &demoServers{}
	err := errors.Join(d.web(ctx, "v1", 18081), d.web(ctx, "v2", 18082), d.ledger(ctx, 18083), d.gauge(18084))
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

func (d *demoServers) listen(ctx context.Context, port int) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err == nil {
		d.closers = append(d.closers, l)
	}
	return l, err
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
func (d *demoServers) gauge(port int) error {
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		return err
	}
	d.closers = append(d.closers, c)
	go func() {
		buf := make([]byte, 65535)
		for {
			n, from, err := c.ReadFromUDP(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteToUDP(append([]byte("counted "), buf[:n]...), from)
		}
	}()
	return nil
}
