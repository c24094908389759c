package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/standalone"
)

// demoClient calls services by their mesh names, as an application would: the mesh DNS says where they are.
type demoClient struct {
	resolver *net.Resolver
	served   map[string]int32 // the port that "name:port" is served on, which differs where it can't be bound
	http     *http.Client
}

func newDemoClient(s standalone.State) *demoClient {
	c := &demoClient{served: map[string]int32{}}
	for _, service := range s.Services {
		for _, p := range service.Ports {
			c.served[fmt.Sprintf("%s.mesh:%d", service.Name, p.Number)] = p.Served
		}
	}
	c.resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, s.DNS)
	}}
	c.http = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: c.dial}}
	return c
}

func (c *demoClient) dial(ctx context.Context, network, address string) (net.Conn, error) {
	name, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	addresses, err := c.resolver.LookupHost(ctx, name+".")
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	return d.DialContext(ctx, network, net.JoinHostPort(addresses[0], strconv.Itoa(int(c.served[address]))))
}

// requests sends n requests and counts the versions that answered: "v1: 90, v2: 10".
func (c *demoClient) requests(n int, beta string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		count := map[string]int{}
		for range n {
			version, err := c.get(ctx, beta)
			if err != nil {
				return "", err
			}
			count[version]++
		}
		var parts []string
		for version, k := range count {
			parts = append(parts, fmt.Sprintf("%s: %d", version, k))
		}
		slices.Sort(parts)
		return strings.Join(parts, ", "), nil
	}
}

func (c *demoClient) get(ctx context.Context, beta string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://web.shop.mesh:80/", nil)
	if err != nil {
		return "", err
	}
	if beta != "" {
		r.Header.Set("x-beta", beta)
	}
	res, err := c.http.Do(r)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return "", err
	}
	version, _, found := strings.Cut(strings.TrimPrefix(string(body), "version="), " ")
	if !found || res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", res.Status, body)
	}
	return version, nil
}

func (c *demoClient) tcp(ctx context.Context) (string, error) {
	conn, err := c.dial(ctx, "tcp", "ledger.shop.mesh:7000")
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	lines := bufio.NewReader(conn)
	greeting, err := lines.ReadString('\n') // it speaks first
	if err != nil {
		return "", err
	}
	fmt.Fprintln(conn, "42")
	answer, err := lines.ReadString('\n')
	return strings.TrimSpace(greeting) + ", " + strings.TrimSpace(answer), err
}

func (c *demoClient) udp(ctx context.Context) (string, error) {
	conn, err := c.dial(ctx, "udp", "gauge.shop.mesh:8125")
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	if _, err := conn.Write([]byte("42")); err != nil {
		return "", err
	}
	buf := make([]byte, 100)
	n, err := conn.Read(buf)
	return string(buf[:n]), err
}
