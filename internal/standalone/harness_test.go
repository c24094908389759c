package standalone

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/files"
	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// patience is how long a test waits for what should take milliseconds.
const patience = 20 * time.Second

// running is a mesh over a folder of its own.
type running struct {
	*Mesh
	dir string
}

// start runs a mesh until the test ends. As for an ordinary user, low ports cannot be bound.
func start(t *testing.T, content map[string]string) *running {
	t.Helper()
	r := &running{dir: t.TempDir()}
	for name, text := range content {
		r.write(t, name, text)
	}
	return r.run(t, Config{Dir: r.dir, DNSAddress: netip.MustParseAddrPort("127.0.0.1:0"), Loopback: ordinary()})
}

func ordinary() files.Loopback {
	l := DetectLoopback()
	l.FirstPort = max(l.FirstPort, 1024)
	return l
}

func (r *running) run(t *testing.T, c Config) *running {
	t.Helper()
	m, err := New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	r.Mesh = m
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	r.await(t, func(s State) error {
		if len(s.Services) == 0 && len(s.Problems) == 0 {
			return fmt.Errorf("nothing is served")
		}
		return nil
	})
	return r
}

// write replaces a file in one step.
func (r *running) write(t *testing.T, name, content string) {
	t.Helper()
	part := filepath.Join(r.dir, "."+name)
	if err := os.WriteFile(part, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(part, filepath.Join(r.dir, name)); err != nil {
		t.Fatal(err)
	}
}

func (r *running) remove(t *testing.T, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(r.dir, name)); err != nil {
		t.Fatal(err)
	}
}

// await waits until what is served is as it should be.
func (r *running) await(t *testing.T, holds func(State) error) {
	t.Helper()
	deadline := time.After(patience)
	for {
		err := holds(r.State())
		if err == nil {
			return
		}
		select {
		case <-r.Changed():
		case <-deadline:
			t.Fatal(err)
		}
	}
}

// awaitProblem waits until there is exactly one kind of problem, on one kind of object.
func (r *running) awaitProblem(t *testing.T, object string, reason problem.Reason) []problem.Problem {
	t.Helper()
	var found []problem.Problem
	r.await(t, func(s State) error {
		found = nil
		for _, p := range s.Problems {
			if p.Object.Kind+" "+p.Object.Name == object && p.Reason == reason {
				found = append(found, p)
			}
		}
		if len(found) == 0 {
			return fmt.Errorf("%s has no problem %s, there are %v", object, reason, s.Problems)
		}
		return nil
	})
	return found
}

func (r *running) awaitNoProblems(t *testing.T) {
	t.Helper()
	r.await(t, func(s State) error {
		if len(s.Problems) > 0 {
			return fmt.Errorf("problems %v", s.Problems)
		}
		return nil
	})
}

// address is where a port of a service is served.
func (r *running) address(t *testing.T, service string, number int32, protocol topology.Protocol) string {
	t.Helper()
	var out string
	r.await(t, func(s State) error {
		for _, one := range s.Services {
			for _, p := range one.Ports {
				if one.Name == service && p.Number == number && p.Protocol == protocol {
					out = netip.AddrPortFrom(one.Address, uint16(p.Served)).String()
					return nil
				}
			}
		}
		return fmt.Errorf("%s %d/%s is not served: %v", service, number, protocol, s.Services)
	})
	return out
}

// httpBackend answers with its version and returns its port.
func httpBackend(t *testing.T, address, version string) int {
	t.Helper()
	l, err := net.Listen("tcp", address+":0")
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, version) }))
	s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	return l.Addr().(*net.TCPAddr).Port
}

// echoBackend sends every line back.
func echoBackend(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c) // until the client leaves
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

// service is a Service with one port whose endpoints are on the loopback.
func service(name, portName string, port int, backends ...int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: shop}\nspec: {ports: [{name: %s, port: %d}]}\n", name, portName, port)
	for i, p := range backends {
		fmt.Fprintf(&b, `---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %s-%d, namespace: shop, labels: {kubernetes.io/service-name: %s}}
addressType: IPv4
ports: [{name: %s, port: %d}]
endpoints: [{addresses: [127.0.0.1]}]
`, name, i, name, portName, p)
	}
	return b.String()
}

func split(name, root string, backends ...string) string {
	return fmt.Sprintf("apiVersion: split.smi-spec.io/v1alpha4\nkind: TrafficSplit\nmetadata: {name: %s, namespace: shop}\nspec: {service: %s, backends: [%s]}\n",
		name, root, strings.Join(backends, ", "))
}

func share(name string, weight any) string {
	return fmt.Sprintf("{service: %s, weight: %v}", name, weight)
}

// get is one request.
func get(ctx context.Context, c *http.Client, address string) (string, int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
	if err != nil {
		return "", 0, err
	}
	res, err := c.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return string(body), res.StatusCode, err
}

// lines is a connection on which every line comes back.
type lines struct {
	conn net.Conn
	in   *bufio.Reader
	n    int
}

func openLines(t *testing.T, address string) *lines {
	t.Helper()
	var d net.Dialer
	c, err := d.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &lines{conn: c, in: bufio.NewReader(c)}
}

func (l *lines) echo() error {
	l.n++
	if err := l.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	want := fmt.Sprintf("line %d\n", l.n)
	if _, err := io.WriteString(l.conn, want); err != nil {
		return err
	}
	if got, err := l.in.ReadString('\n'); err != nil || got != want {
		return fmt.Errorf("%q came back for %q: %w", got, want, err)
	}
	return nil
}

func anyPort() netip.AddrPort { return netip.MustParseAddrPort("127.0.0.1:0") }

// echoUDPBackend sends every datagram back.
func echoUDPBackend(t *testing.T) int {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(b[:n], from) // a lost datagram is one
		}
	}()
	return c.LocalAddr().(*net.UDPAddr).Port
}
