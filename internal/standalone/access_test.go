package standalone

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/files"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// The pods that call in these tests, by their addresses. 127.3.0.9 is nobody's, 127.0.0.1 everybody's.
const pods = `
apiVersion: v1
kind: Pod
metadata: {name: client-1, namespace: shop}
spec: {serviceAccountName: client}
status: {podIP: 127.3.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: other-1, namespace: other}
spec: {serviceAccountName: client}
status: {podIP: 127.3.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: second-1, namespace: shop}
spec: {serviceAccountName: second}
status: {podIP: 127.3.0.3}
`

// enforced runs a mesh in which access is enforced, with a workload shop/web behind three kinds of ports.
func enforced(t *testing.T, policy string) *running {
	t.Helper()
	return protected(t, policy, topology.AccessEnforce)
}

func protected(t *testing.T, policy string, mode topology.AccessMode) *running {
	t.Helper()
	r := &running{dir: t.TempDir()}
	port := httpBackend(t, "127.0.0.1", "web")
	r.write(t, "pods.yaml", pods+fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {app: web}}
spec: {serviceAccountName: web}
status: {podIP: 127.0.0.1}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  ports:
  - {name: http, port: 8080, targetPort: %d}
  - {name: http-second, port: 8081, targetPort: %d}
  - {name: tcp-echo, port: 8082, targetPort: %d}
  - {name: echo, port: 8082, targetPort: %d, protocol: UDP}
`, port, port, echoBackend(t), echoUDPBackend(t)))
	r.write(t, "policy.yaml", policy)
	return r.run(t, Config{Dir: r.dir, DNSAddress: anyPort(), Loopback: files.Loopback{FirstPort: 1024}, Access: mode})
}

const routes = `
apiVersion: specs.smi-spec.io/v1alpha4
kind: HTTPRouteGroup
metadata: {name: api, namespace: shop}
spec:
  matches:
  - {name: read, pathRegex: /api, methods: [GET]}
  - {name: write, pathRegex: /api, methods: [POST], headers: [{x-role: "admin|root"}]}
---
apiVersion: specs.smi-spec.io/v1alpha4
kind: TCPRoute
metadata: {name: second, namespace: shop}
spec: {matches: {ports: [8081]}}
---
apiVersion: specs.smi-spec.io/v1alpha4
kind: TCPRoute
metadata: {name: all, namespace: shop}
spec: {matches: {}}
---
apiVersion: specs.smi-spec.io/v1alpha4
kind: UDPRoute
metadata: {name: all, namespace: shop}
`

// target allows sources ("namespace/name") what rules say ("Kind name match match").
func target(name string, sources, rules []string) string {
	var s, r []string
	for _, one := range sources {
		namespace, account, _ := strings.Cut(one, "/")
		s = append(s, fmt.Sprintf("{kind: ServiceAccount, namespace: %s, name: %s}", namespace, account))
	}
	for _, one := range rules {
		f := strings.Fields(one)
		r = append(r, fmt.Sprintf("{kind: %s, name: %s, matches: [%s]}", f[0], f[1], strings.Join(f[2:], ", ")))
	}
	return fmt.Sprintf("---\napiVersion: access.smi-spec.io/v1alpha3\nkind: TrafficTarget\nmetadata: {namespace: shop, name: %s}\nspec: {destination: {kind: ServiceAccount, name: web}, rules: [%s], sources: [%s]}\n",
		name, strings.Join(r, ", "), strings.Join(s, ", "))
}

const (
	client   = "127.3.0.1" // shop/client
	other    = "127.3.0.2" // other/client
	second   = "127.3.0.3" // shop/second
	stranger = "127.0.0.1" // everybody
)

// call makes a call from a loopback address: "GET 8080 /api X-Role=admin", "TCP 8082", "UDP 8082". The outcome is
// "ok", or what refused it.
func (r *running) call(t *testing.T, from, call string) string {
	t.Helper()
	f := strings.Fields(call)
	var number int32
	if _, err := fmt.Sscan(f[1], &number); err != nil {
		t.Fatal(err)
	}
	switch f[0] {
	case "TCP":
		return echoFrom(t, "tcp", from, r.address(t, "web.shop", number, topology.TCP))
	case "UDP":
		return echoFrom(t, "udp", from, r.address(t, "web.shop", number, topology.UDP))
	}
	req, err := http.NewRequestWithContext(t.Context(), f[0], "http://"+r.address(t, "web.shop", number, topology.HTTP), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.URL.Opaque = f[2]
	for _, h := range f[3:] {
		name, value, _ := strings.Cut(h, "=")
		req.Header.Add(name, value)
	}
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, network, req.URL.Host)
	}}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return "ok"
	}
	return resp.Header.Get("Tulle-Reason")
}

// echoFrom has something echoed: "ok", or "closed" if it isn't.
func echoFrom(t *testing.T, network, from, address string) string {
	t.Helper()
	d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	wait := patience
	if network == "udp" {
		d.LocalAddr = &net.UDPAddr{IP: net.ParseIP(from)}
		wait = 200 * time.Millisecond // nobody says that a datagram was dropped
	}
	c, err := d.DialContext(t.Context(), network, address)
	if errors.Is(err, syscall.ECONNRESET) {
		return "closed" // before the client found out that it was open
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := io.WriteString(c, "echo\n"); err != nil {
		return "closed"
	}
	if n, err := io.ReadAtLeast(c, b, 5); err != nil || string(b[:n]) != "echo\n" {
		return "closed"
	}
	return "ok"
}

// TestAccessRules shows every rule on live traffic: who calls, what is called, and what comes of it.
func TestAccessRules(t *testing.T) {
	for _, rule := range []struct {
		name, policy string
		calls        [][3]string // from, call, outcome
	}{
		{"A1 default deny", "", [][3]string{
			{client, "GET 8080 /api", "no-target"}, {client, "TCP 8082", "closed"}, {client, "UDP 8082", "closed"}, {stranger, "GET 8080 /", "unknown-caller"},
		}},
		{"A2 no source", target("t", nil, []string{"TCPRoute all"}), [][3]string{{client, "GET 8080 /api", "no-target"}, {client, "TCP 8082", "closed"}}},
		{"A3 A8 listed only", target("t", []string{"shop/client"}, []string{"HTTPRouteGroup api"}), [][3]string{
			{client, "GET 8080 /api/x", "ok"},
			{client, "GET 8080 /", "route-denied"},
			{other, "GET 8080 /api/x", "source-denied"},
			{second, "GET 8080 /api/x", "source-denied"},
			{client, "TCP 8082", "closed"},
			{client, "UDP 8082", "closed"},
			{stranger, "GET 8080 /api/x", "unknown-caller"},
		}},
		{"A4 all matches", target("t", []string{"shop/client"}, []string{"HTTPRouteGroup api"}), [][3]string{{client, "GET 8080 /api", "ok"}, {client, "POST 8080 /api X-Role=root", "ok"}}},
		{"A4 named match", target("t", []string{"shop/client"}, []string{"HTTPRouteGroup api read"}), [][3]string{{client, "GET 8080 /api", "ok"}, {client, "POST 8080 /api X-Role=root", "route-denied"}}},
		{"A5 second port", target("t", []string{"shop/client"}, []string{"TCPRoute second"}), [][3]string{{client, "GET 8081 /", "ok"}, {client, "GET 8080 /", "port-denied"}, {client, "TCP 8082", "closed"}}},
		{"A5 second port and matches", target("t", []string{"shop/client"}, []string{"TCPRoute second", "HTTPRouteGroup api"}), [][3]string{
			{client, "GET 8081 /api", "ok"}, {client, "GET 8081 /", "route-denied"}, {client, "GET 8080 /api", "port-denied"},
		}},
		{"A6 TCP", target("t", []string{"shop/client"}, []string{"TCPRoute all"}), [][3]string{{client, "TCP 8082", "ok"}, {client, "UDP 8082", "closed"}, {client, "GET 8080 /", "ok"}, {other, "TCP 8082", "closed"}}},
		{"A6 UDP", target("t", []string{"shop/client"}, []string{"UDPRoute all"}), [][3]string{{client, "UDP 8082", "ok"}, {client, "TCP 8082", "closed"}, {client, "GET 8080 /", "port-denied"}, {other, "UDP 8082", "closed"}}},
		{"A9 union", target("a", []string{"shop/client"}, []string{"HTTPRouteGroup api read"}) + target("b", []string{"shop/second", "shop/client"}, []string{"HTTPRouteGroup api write"}), [][3]string{
			{client, "GET 8080 /api", "ok"}, {client, "POST 8080 /api X-Role=admin", "ok"}, {second, "POST 8080 /api X-Role=admin", "ok"}, {second, "GET 8080 /api", "route-denied"},
		}},
		{"A9 union, the other way round", target("b", []string{"shop/client"}, []string{"HTTPRouteGroup api read"}) + target("a", []string{"shop/second", "shop/client"}, []string{"HTTPRouteGroup api write"}), [][3]string{
			{client, "GET 8080 /api", "ok"}, {client, "POST 8080 /api X-Role=admin", "ok"}, {second, "POST 8080 /api X-Role=admin", "ok"}, {second, "GET 8080 /api", "route-denied"},
		}},
		{"S1 paths", target("t", []string{"shop/client"}, []string{"HTTPRouteGroup api"}), [][3]string{
			{client, "GET 8080 /apifoo", "ok"}, {client, "GET 8080 /x/api", "route-denied"}, {client, "GET 8080 /x/../%61pi", "ok"}, {client, "GET 8080 /api/..;/x", "route-denied"}, {client, "GET 8080 /api%2fx", "bad-path"},
		}},
		{"S2 headers", target("t", []string{"shop/client"}, []string{"HTTPRouteGroup api"}), [][3]string{
			{client, "POST 8080 /api x-role=admin", "ok"}, {client, "POST 8080 /api X-Role=user", "route-denied"}, {client, "POST 8080 /api X-Role=admin X-Role=user", "route-denied"}, {client, "POST 8080 /api", "route-denied"},
		}},
		{"S3 S4 anything", target("t", []string{"shop/client"}, []string{"TCPRoute all", "UDPRoute all"}), [][3]string{
			{client, "DELETE 8080 /%2f", "ok"}, {client, "GET 8081 /", "ok"}, {client, "TCP 8082", "ok"}, {client, "UDP 8082", "ok"},
		}},
	} {
		t.Run(rule.name, func(t *testing.T) {
			t.Parallel()
			r := enforced(t, routes+rule.policy)
			for _, c := range rule.calls {
				if got := r.call(t, c[0], c[1]); got != c[2] {
					t.Errorf("%s from %s: %s, want %s", c[1], c[0], got, c[2])
				}
			}
		})
	}
}

// A target that goes takes what it allowed with it, for connections that live as well.
func TestTargetIsRemoved(t *testing.T) {
	r := enforced(t, routes+target("t", []string{"shop/client"}, []string{"TCPRoute all"}))
	d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(client)}}
	c, err := d.DialContext(t.Context(), "tcp", r.address(t, "web.shop", 8082, topology.TCP))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "x"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := c.Read(b); err != nil {
		t.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	r.write(t, "policy.yaml", routes)
	if _, err := c.Read(b); err == nil || os.IsTimeout(err) {
		t.Errorf("a second later the connection lives: %v", err)
	}
	if got := r.call(t, client, "GET 8080 /"); got != "no-target" {
		t.Errorf("a request: %s", got)
	}
	// A namespace that goes and comes again has none of the permissions that it had.
	r.write(t, "policy.yaml", routes+target("t", []string{"shop/client"}, []string{"TCPRoute all"}))
	r.awaitCall(t, client, "GET 8080 /", "ok")
	kept, err := os.ReadFile(r.dir + "/pods.yaml")
	if err != nil {
		t.Fatal(err)
	}
	r.remove(t, "policy.yaml")
	r.write(t, "pods.yaml", pods)
	r.await(t, func(s State) error {
		if len(s.Services) > 0 {
			return fmt.Errorf("still served: %v", s.Services)
		}
		return nil
	})
	r.write(t, "pods.yaml", string(kept))
	r.awaitCall(t, client, "GET 8080 /", "no-target")
}

func (r *running) awaitCall(t *testing.T, from, call, want string) {
	t.Helper()
	r.await(t, func(State) error {
		if got := r.call(t, from, call); got != want {
			return fmt.Errorf("%s: %s, want %s", call, got, want)
		}
		return nil
	})
}

// Under access control, the targets of the backend that a split chose decide.
func TestSplitUnderAccessControl(t *testing.T) {
	dir := &running{dir: t.TempDir()}
	backend := func(name string) string {
		return fmt.Sprintf("---\napiVersion: v1\nkind: Pod\nmetadata: {name: %s-1, namespace: shop, labels: {app: %s}}\nspec: {serviceAccountName: %s}\nstatus: {podIP: 127.0.0.1}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: shop}\nspec: {selector: {app: %s}, ports: [{name: http, port: 8080, targetPort: %d}]}\n",
			name, name, name, name, name, httpBackend(t, "127.0.0.1", name))
	}
	dir.write(t, "all.yaml", pods+backend("web")+backend("v1")+backend("v2")+"---\n"+split("s", "web", share("v1", 1), share("v2", 1))+"---"+routes+
		strings.ReplaceAll(target("t", []string{"shop/client"}, []string{"TCPRoute all"}), "name: web}", "name: v1}")+
		strings.ReplaceAll(target("root", []string{"shop/second"}, []string{"TCPRoute all"}), "name: web}", "name: web}"))
	r := dir.run(t, Config{Dir: dir.dir, DNSAddress: anyPort(), Loopback: files.Loopback{FirstPort: 1024}, Access: topology.AccessEnforce})
	got := map[string]int{}
	for name, from := range map[string]string{"client": client, "second": second} { // one after the other: they share the turns
		for range 10 {
			got[name+" "+r.call(t, from, "GET 8080 /")]++
		}
	}
	want := map[string]int{"client ok": 5, "client no-target": 5, "second source-denied": 5, "second no-target": 5}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
