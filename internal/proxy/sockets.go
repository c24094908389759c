package proxy

import (
	"context"
	"fmt"
	"net"
)

// Sockets are where the proxy gets its listening sockets from: the holder in a cluster, the kernel in standalone mode
// and in tests. Addresses are "host:port" with a literal IP or an empty host (all addresses of every family). A port
// that is taken fails with an error that errors.Is syscall.EADDRINUSE.
//
// Closing what Listen or ListenPacket returned ends only this process's use of it; Release gives the socket up, so
// that the port is free for others. Both are called when the config no longer has the port, neither when the process
// ends.
type Sockets interface {
	Listen(ctx context.Context, address string) (net.Listener, error)
	ListenPacket(ctx context.Context, address string) (*net.UDPConn, error)
	// Release is called after the socket was closed here. network is "tcp" or "udp".
	Release(network, address string)
}

// Kernel is the plain implementation of Sockets: every socket is opened here and ends when it is closed.
type Kernel struct{}

// Listen implements Sockets.
func (Kernel) Listen(ctx context.Context, address string) (net.Listener, error) {
	var c net.ListenConfig
	c.SetMultipathTCP(false) // whose sockets the kernel can't splice
	l, err := c.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("open listener: %w", err)
	}
	return l, nil
}

// ListenPacket implements Sockets.
func (Kernel) ListenPacket(ctx context.Context, address string) (*net.UDPConn, error) {
	var config net.ListenConfig
	c, err := config.ListenPacket(ctx, "udp", address)
	if err != nil {
		return nil, fmt.Errorf("open socket: %w", err)
	}
	return c.(*net.UDPConn), nil
}

// Release implements Sockets.
func (Kernel) Release(string, string) {}
