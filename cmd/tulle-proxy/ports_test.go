//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
	"testing"
)

// TestPortsComeAndGo follows a service whose port is taken by somebody else: it is reported and costs the others
// nothing, is opened once it is free, and closed when the service goes.
func TestPortsComeAndGo(t *testing.T) {
	t.Parallel()
	c := startController(t)
	s, url := web(t)
	busy := service{name: "busy", target: freePorts(t, 1)[0], backend: backend(t, "no longer busy")}
	l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(busy.target))
	if err != nil {
		t.Fatal(err)
	}
	c.publish(t, true, s, busy)
	p := startProxy(t, c, t.TempDir())
	p.waitReady()
	mustGet(t, url, "web v1")
	eventually(t, "the controller hears of the busy port", func() bool {
		for _, peer := range c.Connections() {
			for _, r := range peer.Refusals {
				return r.Name == "shop/busy" && r.BusyPort == uint32(busy.target)
			}
		}
		return false
	})

	l.Close()
	busyURL := fmt.Sprintf("http://127.0.0.1:%d/", busy.target)
	eventually(t, "the port is opened", func() bool {
		_, body, err := get(busyURL)
		return err == nil && body == "no longer busy"
	})
	mustGet(t, url, "web v1")

	c.publish(t, true, s)
	eventually(t, "the port is closed", func() bool {
		_, _, err := get(busyURL)
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	mustGet(t, url, "web v1")
}
