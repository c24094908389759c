package proxy_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxy"
)

func TestLargeAndEmptyDatagrams(t *testing.T) {
	m := start(t)
	c := dialUDP(t, m.serve("echo", udpPort, echoUDP(t)))
	for _, size := range []int{0, 1, 1500, 9000, 65507} {
		sent := strings.Repeat("x", size)
		if got := c.ask(sent); got != sent {
			t.Errorf("%d bytes came back as %d", size, len(got))
		}
	}
}

// Answers come from the address that the client sent to, whichever of the host's addresses that is.
func TestAnswersComeFromTheAddressThatWasAsked(t *testing.T) {
	m := start(t)
	m.set("shop/echo", endpoints("echo", udpPort, 80, echoUDP(t)))
	s := service("echo", udpPort, 80, 20001)
	s.BindAddress = "" // all addresses
	m.set("shop/echo", s)
	_, port, err := net.SplitHostPort(m.sockets.address(udpPort, 20001))
	if err != nil {
		t.Fatal(err)
	}
	hosts := []string{"127.0.0.1", "127.0.0.2", "127.1.2.3"}
	if c, err := net.ListenPacket("udp6", "[::1]:0"); err == nil {
		c.Close()
		hosts = append(hosts, "::1")
	}
	for _, host := range hosts {
		c := dialUDP(t, net.JoinHostPort(host, port)) // a connected socket takes answers from there only
		if got := c.ask("hello"); got != "hello" {
			t.Errorf("%s: %q", host, got)
		}
	}
}

func TestFlowsStayWithTheirEndpointAndEndWhenIdle(t *testing.T) {
	t.Parallel()
	m := start(t, func(c *proxy.Config) { c.UDPIdle = time.Second })
	c := dialUDP(t, m.serve("dns", udpPort, answerUDP(t, "a"), answerUDP(t, "b")))
	first := c.ask("?")
	for range 8 {
		<-time.After(150 * time.Millisecond) // longer than the limit in all
		if got := c.ask("?"); got != first {
			t.Errorf("moved from %q to %q", first, got)
		}
	}
	eventually(t, func() error {
		if n := m.metric("tulle_proxy_udp_flows"); n != 0 {
			return fmt.Errorf("%v flows %w", n, errNotYet)
		}
		return nil
	})
	if second := c.ask("?"); second == first {
		t.Error("the next flow did not take its turn")
	}
	eventually(t, func() error { // counted after they were sent on
		flows, datagrams := m.metric("tulle_proxy_udp_flows_total", "service", "dns"), m.metric("tulle_proxy_udp_received_datagrams_total")
		if flows != 2 || datagrams != 10 {
			return fmt.Errorf("%v flows, %v datagrams %w", flows, datagrams, errNotYet)
		}
		return nil
	})
}

// An ICMP error ends the flow, and the next datagram goes elsewhere.
func TestDeadEndpointsEndFlows(t *testing.T) {
	m := start(t)
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := c.LocalAddr().String()
	c.Close()
	front := m.serve("dns", udpPort, dead, answerUDP(t, "up"))
	client := dialUDP(t, front)
	got := make(chan string, 100)
	go func() {
		for {
			b := make([]byte, 10)
			n, err := client.Read(b)
			if err != nil {
				return
			}
			got <- string(b[:n])
		}
	}()
	eventually(t, func() error {
		if _, err := client.Write([]byte("?")); err != nil {
			return err
		}
		select {
		case <-got:
			return nil
		case <-time.After(20 * time.Millisecond):
			return errNotYet
		}
	})
}

func TestFlowsOfEndpointsThatAreGoneMove(t *testing.T) {
	m := start(t)
	a, b := answerUDP(t, "a"), answerUDP(t, "b")
	front := m.serve("dns", udpPort, a)
	c := dialUDP(t, front)
	if got := c.ask("?"); got != "a" {
		t.Fatal(got)
	}
	both := endpoints("dns", udpPort, 80, a, b)
	both.Ports[0].Endpoints[0].Draining = true
	m.set("shop/dns", both)
	if got := c.ask("?"); got != "a" {
		t.Errorf("a flow left an endpoint that drains for %q", got)
	}
	if got := dialUDP(t, front).ask("?"); got != "b" {
		t.Errorf("a new flow went to %q", got)
	}
	m.set("shop/dns", endpoints("dns", udpPort, 80, b))
	if got := c.ask("?"); got != "b" {
		t.Errorf("a flow stays with an endpoint that is gone: %q", got)
	}
}

func TestTooManyFlowsEvictTheIdlest(t *testing.T) {
	m := start(t, func(c *proxy.Config) { c.MaxFlows = 4 })
	front := m.serve("echo", udpPort, echoUDP(t))
	busy := dialUDP(t, front)
	busy.ask("x")
	for i := range 20 {
		if got := dialUDP(t, front).ask(fmt.Sprint(i)); got != fmt.Sprint(i) {
			t.Errorf("%d: %q", i, got)
		}
		busy.ask("x")
	}
	if n := m.metric("tulle_proxy_udp_flows_total"); n != 21 {
		t.Errorf("%v flows were begun: the busy one was evicted", n)
	}
	if n := m.metric("tulle_proxy_refusals_total", "protocol", "udp", "reason", "evicted"); n != 17 {
		t.Errorf("%v evictions", n)
	}
	eventually(t, func() error {
		if n := m.metric("tulle_proxy_udp_flows"); n > 4 {
			return fmt.Errorf("%v flows %w", n, errNotYet)
		}
		return nil
	})
}

func TestDatagramsWithoutEndpointAreDropped(t *testing.T) {
	m := start(t)
	c := dialUDP(t, m.serve("dns", udpPort))
	if _, err := c.Write([]byte("?")); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if m.metric("tulle_proxy_refusals_total", "protocol", "udp", "service", "dns", "reason", "no-endpoint") != 1 {
			return errNotYet
		}
		return nil
	})
	m.set("shop/dns", endpoints("dns", udpPort, 80, answerUDP(t, "up")))
	if got := c.ask("?"); got != "up" {
		t.Error(got)
	}
}

// TCP and UDP on one number are two ports.
func TestTCPAndUDPOnOneNumber(t *testing.T) {
	m := start(t)
	s := service("dns", udpPort, 53, 20001)
	tcp := service("dns", httpPort, 53, 20001).Ports[0]
	s.Ports = append(s.Ports, tcp)
	e := endpoints("dns", udpPort, 53, answerUDP(t, "udp"))
	e.Ports = append(e.Ports, endpoints("dns", tcpPort, 53, says(t, "tcp")).Ports...)
	m.set("shop/dns", e)
	m.set("shop/dns", s)
	if got := dialUDP(t, m.sockets.address(udpPort, 20001)).ask("?"); got != "udp" {
		t.Errorf("udp: %q", got)
	}
	if got := text(t, get(t, m.sockets.address(httpPort, 20001))); got != "tcp" {
		t.Errorf("tcp: %q", got)
	}
	s.Ports = []*configv1.Port{tcp}
	m.set("shop/dns", s)
	if got := text(t, get(t, m.sockets.address(httpPort, 20001))); got != "tcp" {
		t.Errorf("tcp without udp: %q", got)
	}
}
