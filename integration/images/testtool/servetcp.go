package main

import (
	"context"
	"fmt"
	"io"
	"net"
)

func (s *server) tcpEcho(ctx context.Context, addr string) error {
	return s.accept(ctx, addr, func(c net.Conn) {
		if _, err := io.Copy(c, c); err == nil {
			fmt.Fprintln(c, s.name())
		}
	})
}

func (s *server) tcpBanner(ctx context.Context, addr string) error {
	return s.accept(ctx, addr, func(c net.Conn) {
		fmt.Fprintln(c, s.name())
		_, _ = io.Copy(c, c) // until either side closes
	})
}

func (s *server) accept(ctx context.Context, addr string, handle func(net.Conn)) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	s.atEnd(ctx, func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c)
			}()
		}
	}()
	return nil
}

func (s *server) udpEcho(ctx context.Context, addr string) error {
	pc, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	s.atEnd(ctx, func() { pc.Close() })
	go func() {
		b := make([]byte, 64<<10)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(append([]byte(s.name()+" "), b[:n]...), from) // datagrams may be lost
		}
	}()
	return nil
}
