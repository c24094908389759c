package standalone

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/tulle-mesh/tulle/internal/proxy"
)

// listenDNS opens TCP and UDP on one port; any, if that is taken and fallback is allowed.
func listenDNS(ctx context.Context, address netip.AddrPort, fallback bool) (net.Listener, net.PacketConn, error) {
	l, p, err := listenBoth(ctx, address)
	// The kernel picks a port that is free for TCP, and may not be for UDP.
	for tries := 0; fallback && errors.Is(err, syscall.EADDRINUSE) && tries < 10; tries++ {
		l, p, err = listenBoth(ctx, netip.AddrPortFrom(address.Addr(), 0))
	}
	if err != nil {
		return nil, nil, fmt.Errorf("mesh DNS: %w", err)
	}
	return l, p, nil
}

func listenBoth(ctx context.Context, address netip.AddrPort) (net.Listener, net.PacketConn, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address.String())
	if err != nil {
		return nil, nil, err
	}
	p, err := lc.ListenPacket(ctx, "udp", l.Addr().String())
	if err != nil {
		return nil, nil, errors.Join(err, l.Close())
	}
	return l, p, nil
}

// loopback are sockets that no other machine can reach, whatever the config says.
type loopback struct{ proxy.Sockets }

// Listen implements proxy.Sockets.
func (l loopback) Listen(ctx context.Context, address string) (net.Listener, error) {
	if err := onLoopback(address); err != nil {
		return nil, err
	}
	return l.Sockets.Listen(ctx, address)
}

// ListenPacket implements proxy.Sockets.
func (l loopback) ListenPacket(ctx context.Context, address string) (*net.UDPConn, error) {
	if err := onLoopback(address); err != nil {
		return nil, err
	}
	return l.Sockets.ListenPacket(ctx, address)
}

func onLoopback(address string) error {
	if a, err := netip.ParseAddrPort(address); err != nil || !a.Addr().IsLoopback() {
		return fmt.Errorf("listen on %s: %w", address, ErrNotLoopback)
	}
	return nil
}
