package traefik_test

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// call is a line of a fixture's calls: who calls a workload's port, and with what.
//
//	shop/client shop/web 80/http GET /path X-Name: value; X-Other: value
type call struct {
	line      string
	from      string // the caller's address
	namespace string // of the workload
	port      string // "80/http"
	ask       ask
}

// callersOf gives every ServiceAccount that calls a pod, and says where it is. "-" is somebody whom nobody knows.
func callersOf(lines string, address func() string) (objects string, addresses map[string]string) {
	addresses = map[string]string{"-": loopback("1")}
	var b strings.Builder
	for line := range strings.Lines(lines) {
		who, _, _ := strings.Cut(line, " ")
		if addresses[who] != "" {
			continue
		}
		addresses[who] = address()
		namespace, account, _ := strings.Cut(who, "/")
		fmt.Fprintf(&b, "\n---\n{apiVersion: v1, kind: Pod, metadata: {namespace: %s, name: caller-%d}, spec: {nodeName: n1, serviceAccountName: %q}, status: {phase: Running, podIP: %s, podIPs: [{ip: %s}]}}\n",
			namespace, len(addresses), account, addresses[who], addresses[who])
	}
	return b.String(), addresses
}

// callsOf reads a fixture's calls.
func callsOf(t *testing.T, lines string, addresses map[string]string) []call {
	t.Helper()
	var out []call
	for line := range strings.Lines(lines) {
		line = strings.TrimSpace(line)
		fields := strings.SplitN(line, " ", 6)
		if len(fields) < 3 {
			t.Fatalf("no call: %q", line)
		}
		c := call{line: line, from: addresses[fields[0]], port: fields[2]}
		c.namespace, _, _ = strings.Cut(fields[1], "/")
		if len(fields) > 4 {
			c.ask = ask{method: fields[3], path: fields[4], header: http.Header{}}
		}
		if len(fields) > 5 {
			for field := range strings.SplitSeq(fields[5], "; ") {
				name, value, _ := strings.Cut(field, ": ")
				c.ask.header.Add(name, value)
			}
		}
		out = append(out, c)
	}
	return out
}

// compareCalls makes each call on all ports that it may mean. Traefik may refuse what the mesh's own proxy allows only
// if a Problem of the service says so, and never allows what that refuses.
func (w *world) compareCalls(t *testing.T, ports []served) {
	for _, c := range w.calls {
		for _, p := range ports {
			if c.port != fmt.Sprintf("%d/%s", p.number, p.protocol) || !strings.HasPrefix(p.name, c.namespace+".") {
				continue
			}
			tulle, traefik := c.make(t, p, p.tulle), c.make(t, p, p.traefik)
			switch {
			case tulle == traefik, isRefusal(traefik) && w.isClosed(p):
				continue
			case traefik == "400" && strings.Contains(strings.ToLower(c.ask.path), "%2f"):
				continue // the difference encoded-slash
			}
			t.Errorf("%s on %s:\n  tulle:   %q\n  traefik: %q", c.line, p.host, tulle, traefik)
		}
	}
}

func (c call) make(t *testing.T, p served, at string) string {
	t.Helper()
	d := &net.Dialer{Timeout: patience}
	switch p.protocol {
	case "tcp":
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(c.from)}
		return connection(t, d, at)
	case "udp":
		d.LocalAddr = &net.UDPAddr{IP: net.ParseIP(c.from)}
		return datagram(t, d, at)
	}
	d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(c.from)}
	asked := c.ask
	asked.host = fmt.Sprintf("%s:%d", p.host, p.number)
	return strings.Join(slices.Sorted(maps.Keys(answers(t, d, at, asked, p.often))), ", ")
}

func isRefusal(answer string) bool {
	return answer == "403" || answer == "closed" || answer == "dropped"
}

// isClosed says whether a Problem says of a port that Traefik can't enforce what protects it.
func (w *world) isClosed(p served) bool {
	labels := strings.Split(p.name, ".")
	prefix := fmt.Sprintf("Service %s/%s: NotEnforceable: ", labels[0], labels[1])
	return slices.ContainsFunc(bytes.Split(w.problems, []byte("\n")), func(line []byte) bool {
		message, ok := bytes.CutPrefix(line, []byte(prefix))
		stream := bytes.Contains(message, fmt.Appendf(nil, " of %s: port %d ", strings.ToUpper(p.protocol), p.number))
		return ok && stream == (p.protocol != "http")
	})
}
