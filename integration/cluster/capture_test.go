//go:build linux

package cluster

import (
	"net"
	"os"
	"testing"
)

// A capture finds what is sent, in whatever packet it is, and nothing else.
func TestCapture(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("this needs root")
	}
	const sent, other = "attack at dawn", "attack at dusk"
	c, err := capture("/proc/self/ns/net", "lo", []string{sent, other})
	if err != nil {
		t.Fatal(err)
	}
	in, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	for range 10 {
		if _, err := in.WriteTo([]byte("we "+sent+"."), in.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		if _, _, err := in.ReadFrom(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	seen, err := c.Stop()
	if err != nil {
		t.Fatal(err)
	}
	// On loopback a packet is seen both leaving and coming.
	if seen.Found[sent] < 10 || seen.Found[other] != 0 || seen.Packets < 10 || seen.Lost != 0 {
		t.Errorf("%+v", seen)
	}
}
