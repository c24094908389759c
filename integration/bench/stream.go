//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"
)

// pingPong sends size bytes on each of n connections and waits for them to come back, again and again.
func pingPong(n, size int) load {
	return func(ctx context.Context, address string, c *count) error {
		return workers(ctx, n, c, func(ctx context.Context, _ int, t *tally) error {
			return onConnection(address, func(conn net.Conn, _ []byte) error {
				out, in := make([]byte, size), make([]byte, size)
				for ctx.Err() == nil {
					begun := time.Now()
					sent := make(chan error, 1)
					if size <= 4<<10 {
						_, err := conn.Write(out)
						sent <- err
					} else {
						go func() {
							_, err := conn.Write(out)
							sent <- err
						}()
					}
					if _, err := io.ReadFull(conn, in); err != nil {
						return err
					}
					if err := <-sent; err != nil {
						return err
					}
					*t = append(*t, time.Since(begun))
				}
				return nil
			})
		})
	}
}

// exchanges opens a connection for each size bytes that it sends and waits for, on n goroutines.
func exchanges(n, size int) load {
	return func(ctx context.Context, address string, c *count) error {
		return workers(ctx, n, c, func(ctx context.Context, _ int, t *tally) error {
			b := make([]byte, size)
			for ctx.Err() == nil {
				begun := time.Now()
				err := onConnection(address, func(conn net.Conn, _ []byte) error {
					if _, err := conn.Write(b); err != nil {
						return err
					}
					_, err := io.ReadFull(conn, b)
					return err
				})
				if err != nil {
					return err
				}
				*t = append(*t, time.Since(begun))
			}
			return nil
		})
	}
}

// datagrams sends a datagram of size bytes on each of n sockets and waits for it to come back, again and again.
func datagrams(n, size int) load {
	return func(ctx context.Context, address string, c *count) error {
		return workers(ctx, n, c, func(ctx context.Context, _ int, t *tally) error {
			conn, err := net.Dial("udp", address) //nolint:noctx // the loopback
			if err != nil {
				return err
			}
			defer conn.Close()
			b := make([]byte, size)
			for ctx.Err() == nil {
				begun := time.Now()
				if err := conn.SetDeadline(begun.Add(2 * time.Second)); err != nil {
					return err
				}
				if _, err := conn.Write(b); err != nil {
					return err
				}
				got, err := conn.Read(b)
				if err != nil {
					return err
				}
				if got != size {
					return fmt.Errorf("%d of %d bytes came back", got, size)
				}
				*t = append(*t, time.Since(begun))
			}
			return nil
		})
	}
}
