package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// pod is a pod of the cluster.
type pod struct {
	namespace, name, node, ip string
}

// pods are the ones with a label, whatever their phase, sorted by node.
func (e *env) pods(t *testing.T, namespace, label string) []pod {
	t.Helper()
	out := e.run(t, "-n", namespace, "get", "pods", "-l", label, "--sort-by=.spec.nodeName",
		"-o", `jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName} {.status.podIP}{"\n"}{end}`)
	var ps []pod
	for line := range strings.Lines(out) {
		f := append(strings.Split(strings.TrimSpace(line), " "), "", "", "")
		ps = append(ps, pod{namespace: namespace, name: f[0], node: f[1], ip: f[2]})
	}
	return ps
}

// httpGet asks a pod itself, past all Services: by its address on the embedded cluster, else through a port-forward.
// loopback is for a port that only listens on the pod's 127.0.0.1.
func (e *env) httpGet(t *testing.T, p pod, port int, path string, loopback bool) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), execTimeout)
	defer cancel()
	addr, dial := net.JoinHostPort(p.ip, fmt.Sprint(port)), (&net.Dialer{}).DialContext
	if loopback || e.embedded == nil {
		addr = e.forward(ctx, t, p, port)
	} else {
		dial = func(ctx context.Context, _, addr string) (net.Conn, error) {
			return e.embedded.DialIn(ctx, p.node, addr)
		}
	}
	c := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatalf("port %d of pod %s: %v", port, p.name, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("get %s from port %d of pod %s: %s, %v: %s", path, port, p.name, res.Status, err, b)
	}
	return string(b)
}

// forward opens a port-forward that lasts as long as the context and returns its local address.
func (e *env) forward(ctx context.Context, t *testing.T, p pod, port int) string {
	t.Helper()
	cmd := e.kubectl.Command(ctx, "-n", p.namespace, "port-forward", "pod/"+p.name, fmt.Sprintf(":%d", port))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	context.AfterFunc(ctx, func() { _ = cmd.Wait() }) // killed by the context
	line, err := bufio.NewReader(out).ReadString('\n')
	// Forwarding from 127.0.0.1:41234 -> 15000
	words := strings.Fields(line)
	if err != nil || len(words) < 3 {
		t.Fatalf("port-forward to %s: %q, %v", p.name, line, err)
	}
	return words[2]
}
