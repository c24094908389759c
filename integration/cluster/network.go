package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// The address ranges, the same in every cluster.
const (
	controlPlaneIP = "10.211.0.1"
	apiServiceIP   = "10.96.0.1"
	dnsIP          = "10.96.0.10"
	serviceCIDR    = "10.96.0.0/16"
	podCIDR        = "10.244.0.0/16"
	serviceCIDR6   = "fd00:96::/112"
	podCIDR6       = "fd00:244::/48"
	apiAddress     = controlPlaneIP + ":6443"
)

// controlPlane is the name of its machine, beside the nodes'.
const controlPlane = "cp"

// node is a node's number, from 1.
type node int

func (n node) String() string   { return fmt.Sprintf("n%d", int(n)) }
func (n node) ip() string       { return fmt.Sprintf("10.211.0.%d", 10+n) }
func (n node) ip6() string      { return fmt.Sprintf("fd00:211::%d", 10+n) }
func (n node) podCIDR() string  { return fmt.Sprintf("10.244.%d.0/24", n) }
func (n node) podCIDR6() string { return fmt.Sprintf("fd00:244:0:%d::/64", n) }

func prefix(cluster string) string           { return "tulle-" + cluster }
func netnsName(cluster, place string) string { return prefix(cluster) + "-" + place }
func (c *Cluster) netns(place string) string { return "/run/netns/" + netnsName(c.o.Name, place) }
func (c *Cluster) both(v4, v6 string) string {
	if c.o.DualStack {
		return v4 + "," + v6
	}
	return v4
}

// network makes a namespace for the control plane with a bridge in it, and one per node with a cable to that bridge.
func (c *Cluster) network(ctx context.Context) error {
	cp := netnsName(c.o.Name, controlPlane)
	var ip, ip6 batch
	ip.add("netns add %s", cp)
	ip.add("-n %s link set lo up", cp)
	ip.add("-n %s link add br0 type bridge", cp)
	ip.add("-n %s addr add %s/24 dev br0", cp, controlPlaneIP)
	ip.add("-n %s link set br0 up", cp)
	ip6.add("-n %s addr add fd00:211::1/64 dev br0 nodad", cp)
	for i := range c.o.Nodes {
		n := node(i + 1)
		ns := netnsName(c.o.Name, n.String())
		ip.add("netns add %s", ns)
		ip.add("-n %s link set lo up", ns)
		ip.add("-n %s link add v%s type veth peer name eth0 netns %s", cp, n, ns)
		ip.add("-n %s link set v%s master br0 up", cp, n)
		ip.add("-n %s addr add %s/24 dev eth0", ns, n.ip())
		ip.add("-n %s link set eth0 up", ns)
		ip.add("-n %s route add default via %s", ns, controlPlaneIP)
		ip6.add("-n %s addr add %s/64 dev eth0 nodad", ns, n.ip6())
		ip6.add("-n %s route add default via fd00:211::1", ns)
		// The control plane too reaches every pod: webhooks, aggregated APIs.
		for j := range c.o.Nodes + 1 {
			if j == int(n) {
				continue
			}
			from := cp
			if j > 0 {
				from = netnsName(c.o.Name, node(j).String())
			}
			ip.later("-n %s route add %s via %s", from, n.podCIDR(), n.ip())
			ip6.later("-n %s route add %s via %s", from, n.podCIDR6(), n.ip6())
		}
	}
	if err := ip.run(ctx); err != nil {
		return err
	}
	if c.o.DualStack {
		if err := ip6.run(ctx); err != nil {
			return err
		}
	}
	return command(ctx, "nsenter", "--net="+c.netns(controlPlane), "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
}

// batch is a list of ip commands; those added by later run after the others.
type batch struct{ first, last [][]string }

func (b *batch) add(format string, args ...any) {
	b.first = append(b.first, strings.Fields(fmt.Sprintf(format, args...)))
}

func (b *batch) later(format string, args ...any) {
	b.last = append(b.last, strings.Fields(fmt.Sprintf(format, args...)))
}

func (b *batch) run(ctx context.Context) error {
	for _, args := range append(b.first, b.last...) {
		if err := command(ctx, "ip", args...); err != nil {
			return err
		}
	}
	return nil
}

func command(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// DialIn connects by TCP to an address (IP and port) from inside the control plane ("cp") or a node ("n1", "n2", ...),
// so that pods and Services are reached without leaving the program.
func (c *Cluster) DialIn(ctx context.Context, place, addr string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	ch := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread, now in another namespace, ends with the goroutine
		if err := joinNet(c.netns(place)); err != nil {
			ch <- result{nil, err}
			return
		}
		// Dialling a literal address, so that no other goroutine (a resolver's, a racing dial's) does it elsewhere.
		if _, _, err := net.SplitHostPort(addr); err != nil {
			ch <- result{nil, err}
			return
		}
		conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", addr)
		ch <- result{conn, err}
	}()
	r := <-ch
	return r.conn, r.err
}

// forward carries connections from this machine's loopback to the API server.
func (c *Cluster) forward() {
	for {
		in, err := c.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			go c.carry(in)
		}
	}
}

func (c *Cluster) carry(in net.Conn) {
	defer in.Close()
	out, err := c.DialIn(context.Background(), controlPlane, apiAddress)
	if err != nil {
		return
	}
	defer out.Close()
	go func() {
		_, _ = io.Copy(out, in) // an end of either side shows in the other copy
		_ = out.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(in, out)
}
