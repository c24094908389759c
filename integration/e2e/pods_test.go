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
	b, err := e.tryHTTP(t, p, port, path, "", loopback)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// tryHTTP is httpGet for what may fail; a body is posted.
func (e *env) tryHTTP(t *testing.T, p pod, port int, path, body string, loopback bool) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), execTimeout)
	defer cancel()
	addr, dial := net.JoinHostPort(p.ip, fmt.Sprint(port)), (&net.Dialer{}).DialContext
	if loopback || e.embedded == nil {
		var err error
		if addr, err = e.forward(ctx, p, port); err != nil {
			return "", err
		}
	} else {
		dial = func(ctx context.Context, _, addr string) (net.Conn, error) {
			return e.embedded.DialIn(ctx, p.node, addr)
		}
	}
	c := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	method := http.MethodGet
	if body != "" {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+addr+path, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	res, err := c.Do(req)
	if err != nil {
		return "", fmt.Errorf("port %d of pod %s: %w", port, p.name, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s %s of port %d of pod %s: %s, %w: %s", method, path, port, p.name, res.Status, err, b)
	}
	return string(b), nil
}

// forward opens a port-forward that lasts as long as the context and returns its local address.
func (e *env) forward(ctx context.Context, p pod, port int) (string, error) {
	cmd := e.kubectl.Command(ctx, "-n", p.namespace, "port-forward", "pod/"+p.name, fmt.Sprintf(":%d", port))
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	context.AfterFunc(ctx, func() { _ = cmd.Wait() }) // killed by the context
	line, err := bufio.NewReader(out).ReadString('\n')
	// Forwarding from 127.0.0.1:41234 -> 15000
	words := strings.Fields(line)
	if err != nil || len(words) < 3 {
		return "", fmt.Errorf("port-forward to %s: %q, %w", p.name, line, err)
	}
	return words[2], nil
}
