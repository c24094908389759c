//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const request = "GET /a/path?q=1 HTTP/1.1\r\nHost: web.shop.mesh\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\nAccept-Encoding: gzip\r\n\r\n"

// load makes requests over keep-alive connections, one after the other on each, for one round.
func load(ctx context.Context, address string, o options) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, o.round)
	defer cancel()
	var n atomic.Int64
	var wg sync.WaitGroup
	failed := make(chan error, o.conns)
	for range o.conns {
		wg.Go(func() {
			if err := loadOne(ctx, address, o.size, &n); err != nil {
				failed <- err
				cancel()
			}
		})
	}
	wg.Wait()
	select {
	case err := <-failed:
		return 0, err
	default:
	}
	if n.Load() == 0 {
		return 0, errors.New("not one request was answered")
	}
	return n.Load(), nil
}

func loadOne(ctx context.Context, address string, size int, count *atomic.Int64) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err //nolint:wrapcheck // says all
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err //nolint:wrapcheck // says all
	}
	buffer := make([]byte, 64<<10)
	for ctx.Err() == nil {
		if _, err := io.WriteString(c, request); err != nil {
			return err //nolint:wrapcheck // says all
		}
		if err := answer(c, buffer, size); err != nil {
			return err
		}
		count.Add(1)
	}
	return nil
}

// answer reads a whole answer, whose body has a known size.
func answer(c net.Conn, buffer []byte, size int) error {
	have := 0
	for {
		n, err := c.Read(buffer[have:])
		if err != nil {
			return err //nolint:wrapcheck // says all
		}
		have += n
		if i := bytes.Index(buffer[:have], []byte("\r\n\r\n")); i >= 0 {
			if !bytes.HasPrefix(buffer[:have], []byte("HTTP/1.1 200 ")) {
				return fmt.Errorf("answer %q", buffer[:i])
			}
			have -= i + 4
			break
		}
	}
	for have < size {
		n, err := c.Read(buffer)
		if err != nil {
			return err //nolint:wrapcheck // says all
		}
		have += n
	}
	if have > size {
		return fmt.Errorf("%d bytes too many", have-size)
	}
	return nil
}

// backend gives everybody the same answer, with as little work as can be.
func backend(l net.Listener, size int) error {
	reply := []byte(fmt.Sprintf("HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", size, strings.Repeat("x", size)))
	for {
		c, err := l.Accept()
		if err != nil {
			return err //nolint:wrapcheck // says all
		}
		go func() {
			defer c.Close()
			r := bufio.NewReader(c)
			for {
				line, err := r.ReadSlice('\n')
				if err != nil {
					return
				}
				if len(line) > 2 {
					continue
				}
				if _, err := c.Write(reply); err != nil {
					return
				}
			}
		}()
	}
}
