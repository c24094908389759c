//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

const (
	request = "GET /a/path?q=1 HTTP/1.1\r\nHost: web.shop.mesh\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\nAccept-Encoding: gzip\r\n"
	again   = request + "\r\n"
	last    = request + "Connection: close\r\n\r\n"
)

// requests makes them over n kept connections, one after the other on each.
func requests(n int) load {
	return func(ctx context.Context, address string, c *count) error {
		return workers(ctx, n, c, func(ctx context.Context, _ int, t *tally) error {
			return onConnection(address, func(conn net.Conn, buffer []byte) error {
				for ctx.Err() == nil {
					if err := ask(conn, again, buffer, t, time.Now()); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
}

// connections makes a connection for each request.
func connections(n int) load {
	return func(ctx context.Context, address string, c *count) error {
		return workers(ctx, n, c, func(ctx context.Context, _ int, t *tally) error {
			for ctx.Err() == nil {
				begun := time.Now()
				if err := onConnection(address, func(conn net.Conn, buffer []byte) error {
					return ask(conn, last, buffer, t, begun)
				}); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// paced makes rate requests a second over n kept connections, whose turns are spread evenly. A request's latency counts
// from when it was due, if the one before it was late; time that only the timer took is the loader's, not the proxy's.
func paced(rate, n int) load {
	return func(ctx context.Context, address string, c *count) error {
		every := time.Duration(n) * time.Second / time.Duration(rate)
		return workers(ctx, n, c, func(ctx context.Context, i int, t *tally) error {
			return onConnection(address, func(conn net.Conn, buffer []byte) error {
				due := time.Now().Add(every * time.Duration(i) / time.Duration(n))
				timer := time.NewTimer(0)
				defer timer.Stop()
				<-timer.C
				for ; ; due = due.Add(every) {
					begun := due
					if wait := time.Until(due); wait > 0 {
						timer.Reset(wait)
						select {
						case <-ctx.Done():
							return nil
						case <-timer.C:
						}
						begun = time.Now()
					}
					if ctx.Err() != nil {
						return nil
					}
					if err := ask(conn, again, buffer, t, begun); err != nil {
						return err
					}
				}
			})
		})
	}
}

func onConnection(address string, use func(net.Conn, []byte) error) error {
	conn, err := net.Dial("tcp", address) //nolint:noctx // the loopback
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	return use(conn, make([]byte, 64<<10))
}

func ask(conn net.Conn, request string, buffer []byte, t *tally, begun time.Time) error {
	if _, err := io.WriteString(conn, request); err != nil {
		return err
	}
	if err := answer(conn, buffer); err != nil {
		return err
	}
	*t = append(*t, time.Since(begun))
	return nil
}

var (
	endOfHead = []byte("\r\n\r\n")
	length    = []byte("\r\ncontent-length: ")
)

// answer reads a whole answer that has a length.
func answer(conn net.Conn, buffer []byte) error {
	have, want := 0, -1
	for {
		n, err := conn.Read(buffer[have:])
		if err != nil {
			return err
		}
		have += n
		i := bytes.Index(buffer[:have], endOfHead)
		if i < 0 {
			continue
		}
		head := bytes.ToLower(buffer[:i+2])
		_, value, _ := bytes.Cut(head, length)
		value, _, _ = bytes.Cut(value, endOfHead[:2])
		if want, err = strconv.Atoi(string(value)); err != nil || !bytes.HasPrefix(head, []byte("http/1.1 200 ")) {
			return fmt.Errorf("answer %q", head)
		}
		have -= i + len(endOfHead)
		break
	}
	for have < want {
		n, err := conn.Read(buffer)
		if err != nil {
			return err
		}
		have += n
	}
	if have > want {
		return fmt.Errorf("%d bytes too many", have-want)
	}
	return nil
}

// streams makes requests on n streams at a time of each HTTP/2 connection.
func streams(conns, n int) load {
	return func(ctx context.Context, address string, c *count) error {
		transports := make([]*http.Transport, conns) // each has one connection
		for i := range transports {
			transports[i] = &http.Transport{Protocols: new(http.Protocols)}
			transports[i].Protocols.SetUnencryptedHTTP2(true)
			defer transports[i].CloseIdleConnections()
		}
		return workers(ctx, conns*n, c, func(ctx context.Context, i int, t *tally) error {
			for ctx.Err() == nil {
				begun := time.Now()
				r, err := http.NewRequest(http.MethodGet, "http://"+address+"/a/path?q=1", nil) //nolint:noctx // is to be answered
				if err != nil {
					return err
				}
				resp, err := transports[i%conns].RoundTrip(r)
				if err != nil {
					return err
				}
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if err != nil {
					return err
				}
				if resp.StatusCode != http.StatusOK {
					return errors.New(resp.Status)
				}
				*t = append(*t, time.Since(begun))
			}
			return nil
		})
	}
}
