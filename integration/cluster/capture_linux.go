package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// packets is a socket that gets all packets of a device, both ways.
type packets int

// packetBuffer is how much may wait to be looked at.
const packetBuffer = 64 << 20

func openPackets(netns, device string) (packets, error) {
	type result struct {
		socket packets
		err    error
	}
	ch := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread, now in another namespace, ends with the goroutine
		if err := joinNet(netns); err != nil {
			ch <- result{0, err}
			return
		}
		s, err := packetSocket(device)
		ch <- result{s, err}
	}()
	r := <-ch
	return r.socket, r.err
}

// packetSocket is of the calling thread's namespace, and stays so.
func packetSocket(device string) (packets, error) {
	on, err := net.InterfaceByName(device)
	if err != nil {
		return 0, err
	}
	all := uint16(unix.ETH_P_ALL)<<8 | unix.ETH_P_ALL>>8 // in the network's order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open packet socket: %w", err)
	}
	s := packets(fd)
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, packetBuffer),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: on.Index}),
	)
	if err != nil {
		return 0, errors.Join(err, s.close())
	}
	return s, nil
}

func (s packets) close() error { return unix.Close(int(s)) }

// lookOn is how long what waits is still looked at after the end, if it never ceases to come.
const lookOn = time.Second

// look reads until stop is closed and nothing waits any more.
func (c *Capture) look(s packets, texts []string) error {
	b := make([]byte, 1<<17) // a packet that its device is to cut may be 64 KiB
	var end time.Time
	for {
		select {
		case <-c.stop:
			if end.IsZero() {
				end = time.Now().Add(lookOn)
			}
		default:
		}
		n, _, err := unix.Recvfrom(int(s), b, 0)
		switch {
		case err == nil:
			c.seen.add(b[:n], texts)
		case !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN):
			return fmt.Errorf("read packet: %w", err)
		}
		if !end.IsZero() && (err != nil || time.Now().After(end)) {
			stats, err := unix.GetsockoptTpacketStats(int(s), unix.SOL_PACKET, unix.PACKET_STATISTICS)
			if err != nil {
				return fmt.Errorf("read statistics: %w", err)
			}
			c.seen.Lost = int(stats.Drops)
			return nil
		}
	}
}

func (s *Seen) add(packet []byte, texts []string) {
	s.Packets, s.Bytes = s.Packets+1, s.Bytes+len(packet)
	for _, text := range texts {
		if bytes.Contains(packet, []byte(text)) {
			s.Found[text]++
		}
	}
}
