package proxy_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxy"
)

// protect makes the workload shop/web of the endpoints of shop/<name> one that is protected. They stay where they are.
func (m *mesh) protect(name string, protocol configv1.Protocol, policy *configv1.Policy, addresses ...string) string {
	m.t.Helper()
	e := endpoints(name, protocol, 80, addresses...)
	for _, one := range e.GetPorts()[0].GetEndpoints() {
		one.Workload, one.Protected = "shop/web", true
	}
	target := m.sockets.free()
	m.set("shop/web", policy)
	m.set("shop/"+name, e)
	m.set("shop/"+name, service(name, protocol, 80, target))
	return m.sockets.address(protocol, target)
}

// allow lets a source do what the rules say.
func allow(source string, mode configv1.AccessMode, rules ...*configv1.Rule) *configv1.Policy {
	namespace, account, _ := strings.Cut(source, "/")
	return &configv1.Policy{
		Namespace: "shop", ServiceAccount: "web", Mode: mode,
		Groups: []*configv1.MatchGroup{{Name: "api", Matches: []*configv1.Match{{Name: "read", PathRegex: "^(?:/api)", Methods: []string{"GET"}}}}},
		Grants: []*configv1.Grant{{Target: "shop/t", Sources: []*configv1.Source{{Namespace: namespace, ServiceAccount: account}}, Rules: rules}},
	}
}

const (
	enforce = configv1.AccessMode_ACCESS_MODE_ENFORCE
	audit   = configv1.AccessMode_ACCESS_MODE_AUDIT
)

var (
	httpRule = &configv1.Rule{Kind: configv1.RuleKind_RULE_KIND_HTTP, Name: "api"}
	tcpRule  = &configv1.Rule{Kind: configv1.RuleKind_RULE_KIND_TCP, Name: "all"}
	udpRule  = &configv1.Rule{Kind: configv1.RuleKind_RULE_KIND_UDP, Name: "all"}
)

// callers replaces who calls from 127.0.0.1; nil is nobody.
func (m *mesh) callers(c *configv1.Caller) {
	m.t.Helper()
	p := &configv1.Proxy{Node: "here", InSlices: true, PodRanges: []string{"127.0.0.0/8"}}
	if c != nil {
		c.Addresses = []string{"127.0.0.1"}
		p.Callers = []*configv1.Caller{c}
	}
	m.set("me", p)
}

func client(account string) *configv1.Caller {
	return &configv1.Caller{Namespace: "shop", Pod: account + "-1", ServiceAccount: account, Workload: "deployment/" + account}
}

// outcome is what a raw request gets: the status and the reason.
func outcome(t *testing.T, front, target string, headers ...string) string {
	t.Helper()
	c := dialRaw(t, front)
	defer c.Close()
	c.say("GET " + target + " HTTP/1.1\r\nHost: web.shop.mesh\r\n" + strings.Join(append(headers, "\r\n"), "\r\n"))
	resp, _ := c.answer("GET")
	return strings.TrimSpace(fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("Tulle-Reason")))
}

// Every request is judged by itself, and the path that is judged is the one that is forwarded.
func TestAccessOfHTTP(t *testing.T) {
	m := start(t)
	address, heads := recorder(t, ok)
	front := m.protect("web", httpPort, allow("shop/client", enforce, httpRule), address)
	for target, want := range map[string]string{
		"/api/x?q=%2F":               "GET /api/x?q=%2F HTTP/1.1",
		"//api/./%61":                "GET /api/a HTTP/1.1",
		"/x/..;a/api?":               "GET /api? HTTP/1.1",
		"http://web.shop.mesh/%61pi": "GET /api HTTP/1.1",
	} {
		if got := outcome(t, front, target); got != "200" {
			t.Errorf("%s: %s", target, got)
			continue
		}
		if got, _, _ := strings.Cut(within(t, heads, "request"), "\r\n"); got != want {
			t.Errorf("%s arrived as %q, want %q", target, got, want)
		}
	}
	for target, want := range map[string]string{
		"/": "403 route-denied", "/api/..;/admin": "403 route-denied", "/x/api": "403 route-denied",
		"/api%2fx": "400 bad-path", "/api\\x": "400 bad-path", "/api%00": "400 bad-path", "/api%zz": "400 bad-request",
	} {
		if got := outcome(t, front, target); got != want {
			t.Errorf("%s: %s, want %s", target, got, want)
		}
	}
	// On one connection.
	c := dialRaw(t, front)
	for _, r := range []struct{ method, want string }{{"GET", "200"}, {"POST", "403"}, {"GET", "200"}} {
		c.say(r.method + " /api HTTP/1.1\r\nHost: x\r\n\r\n")
		if resp, _ := c.answer(r.method); !strings.HasPrefix(resp.Status, r.want) {
			t.Errorf("%s on one connection: %s", r.method, resp.Status)
		}
	}
}

// What clients say of themselves makes no difference, and reaches no backend.
func TestForgedHeaders(t *testing.T) {
	m := start(t)
	address, heads := recorder(t, ok)
	front := m.protect("web", httpPort, allow("shop/client", enforce, tcpRule), address)
	forged := []string{
		"X-Forwarded-Client-Cert: URI=spiffe://cluster.local/ns/shop/sa/admin", "x-forwarded-client-cert: second",
		"Tulle-Caller: shop/admin", "tulle-reason: x", "Connection: X-Forwarded-Client-Cert, Tulle-Caller", "Forwarded: for=6.6.6.6",
	}
	if got := outcome(t, front, "/", forged...); got != "200" {
		t.Fatal(got)
	}
	head := within(t, heads, "request")
	if want := "\r\nX-Forwarded-Client-Cert: By=spiffe://cluster.local/ns/shop/sa/web;URI=spiffe://cluster.local/ns/shop/sa/client\r\n"; strings.Count(strings.ToLower(head), "client-cert") != 1 || !strings.Contains(head, want) {
		t.Errorf("no %q, or not alone, in\n%s", want, head)
	}
	if strings.Contains(strings.ToLower(head), "\r\ntulle-") || !strings.Contains(head, "\r\nForwarded: for=6.6.6.6, for=127.0.0.1;proto=http\r\n") {
		t.Errorf("arrived:\n%s", head)
	}
	m.callers(client("other"))
	for _, h := range append(forged, "X-Forwarded-For: 127.0.0.1", "X-Real-Ip: 127.0.0.1") {
		if got := outcome(t, front, "/", h); got != "403 source-denied" {
			t.Errorf("%s: %s", h, got)
		}
	}
	m.remove(&configv1.Policy{}, "shop/web")
	m.serve("open", httpPort, address)
	front = m.serve("open2", httpPort, address)
	m.callers(nil)
	if got := outcome(t, front, "/", forged...); got != "200" {
		t.Fatal(got)
	}
	if head := within(t, heads, "request"); strings.Contains(strings.ToLower(head), "client-cert") || strings.Contains(strings.ToLower(head), "\r\ntulle-") {
		t.Errorf("of nobody arrived:\n%s", head)
	}
}

func TestWhoCalls(t *testing.T) {
	m := start(t, func(c *proxy.Config) { c.IdentityWait = -1 })
	front := m.protect("web", httpPort, allow("shop/client", enforce, tcpRule), says(t, "web"))
	stale := client("client")
	stale.ExpiresMs = time.Now().Add(-time.Millisecond).UnixMilli()
	fresh := client("client")
	fresh.ExpiresMs = time.Now().Add(time.Hour).UnixMilli()
	for _, c := range []struct {
		name, want string
		proxy      *configv1.Proxy
	}{
		{"known", "200", &configv1.Proxy{Callers: []*configv1.Caller{client("client")}}},
		{"fresh", "200", &configv1.Proxy{Callers: []*configv1.Caller{fresh}}},
		{"stale", "403 identity-stale", &configv1.Proxy{Callers: []*configv1.Caller{stale}}},
		{"unknown", "403 unknown-caller", &configv1.Proxy{}},
		{"of the node's pods", "403 unknown-caller", &configv1.Proxy{PodRanges: []string{"127.0.0.0/8"}}},
		{"of another node", "503 caller-not-local", &configv1.Proxy{PodRanges: []string{"10.0.0.0/8"}}},
		{"the node itself", "403 unknown-caller", &configv1.Proxy{PodRanges: []string{"10.0.0.0/8"}, NodeAddresses: []string{"127.0.0.1"}}},
	} {
		for _, one := range c.proxy.GetCallers() {
			one.Addresses = []string{"127.0.0.1"}
		}
		m.set("me", c.proxy)
		if got := outcome(t, front, "/"); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// A new pod's first call waits for its identity; that of a process of the node does not, as there will be none.
func TestFirstCallWaits(t *testing.T) {
	m := start(t, func(c *proxy.Config) { c.IdentityWait = 20 * time.Second })
	front := m.protect("web", httpPort, allow("shop/client", enforce, tcpRule), says(t, "web"))
	m.callers(nil)
	got := make(chan string, 1)
	c := dialRaw(t, front)
	c.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	go func() {
		resp, _ := c.answer("GET")
		got <- resp.Status
	}()
	m.callers(client("somebody")) // waiting goes on for who waits as nobody only
	if s := within(t, got, "answer"); s != "403 Forbidden" {
		t.Errorf("somebody else: %s", s)
	}
	m.callers(nil)
	c = dialRaw(t, front)
	c.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	go func() {
		resp, _ := c.answer("GET")
		got <- resp.Status
	}()
	m.set("shop/other", endpoints("other", httpPort, 80)) // any change
	select {
	case s := <-got:
		t.Errorf("did not wait: %s", s)
	case <-time.After(50 * time.Millisecond):
	}
	m.callers(client("client"))
	if s := within(t, got, "answer"); s != "200 OK" {
		t.Errorf("known by now: %s", s)
	}
}

// What comes from the gateway of pods is none of them, though the address is in their range: it is not waited for.
func TestGatewayIsNobody(t *testing.T) {
	m := start(t, func(c *proxy.Config) {
		c.IdentityWait = time.Hour
		c.Gateways = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	})
	front := m.protect("web", httpPort, allow("shop/client", enforce, tcpRule), says(t, "web"))
	m.callers(nil)
	if got := outcome(t, front, "/"); got != "403 unknown-caller" {
		t.Error(got)
	}
}

func TestFirstCallGivesUp(t *testing.T) {
	m := start(t, func(c *proxy.Config) { c.IdentityWait = 100 * time.Millisecond })
	front := m.protect("web", httpPort, allow("shop/client", enforce, tcpRule), says(t, "web"))
	m.callers(nil)
	began := time.Now()
	if got := outcome(t, front, "/"); got != "403 unknown-caller" || time.Since(began) < 100*time.Millisecond {
		t.Errorf("%s after %v", got, time.Since(began))
	}
}

func TestAccessOfGRPC(t *testing.T) {
	m := start(t)
	front := m.protect("web", httpPort, allow("shop/other", enforce, tcpRule), unused(t))
	in, out := []byte("x"), []byte(nil)
	var header metadata.MD // which are trailers to gRPC, as nothing else comes
	err := dialGRPC(t, front).Invoke(t.Context(), "/echo.Echo/Say", &in, &out, grpc.Trailer(&header))
	if s := grpcstatus.Convert(err); s.Code() != codes.PermissionDenied || s.Message() != "tulle: no TrafficTarget lists the caller for this workload" {
		t.Errorf("%v", err)
	}
	if got := header["tulle-reason"]; len(got) != 1 || got[0] != "source-denied" {
		t.Errorf("reason %q", got)
	}
}

// One host has two names on HTTP/2: a rule may judge the one and a backend go by the other.
func TestHostsThatDisagree(t *testing.T) {
	m := start(t)
	front := m.serve("web", httpPort, says(t, "web"))
	for host, want := range map[string]string{"a.b": "200", "c.d": "400"} {
		conn, err := net.Dial("tcp", front)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if got := h2Status(t, conn, [2]string{":authority", "a.b"}, [2]string{"host", host}); got != want {
			t.Errorf(":authority a.b and host %s: %s, want %s", host, got, want)
		}
	}
}

// h2Status makes one GET with more fields and returns the status.
func h2Status(t *testing.T, conn net.Conn, fields ...[2]string) string {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range append([][2]string{{":method", "GET"}, {":scheme", "http"}, {":path", "/"}}, fields...) {
		if err := enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			t.Fatal(err)
		}
	}
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	err := errors.Join(framer.WriteSettings(), framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}))
	if err != nil {
		t.Fatal(err)
	}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if h, ok := frame.(*http2.MetaHeadersFrame); ok {
			return h.PseudoValue("status")
		}
	}
}

// exchange has a line echoed.
func (c *rawClient) exchange(line string) {
	c.t.Helper()
	c.say(line + "\n")
	c.expect(line + "\n")
}

// ends fails if the connection isn't closed within the second that a new policy has for it.
func (c *rawClient) ends(name string) {
	c.t.Helper()
	if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
		c.t.Fatal(err)
	}
	if b, err := c.r.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Errorf("%s: read %q, %v", name, b, err)
	}
}

// closed fails the test unless a new connection ends at once. The reset may be there before the dial has returned.
func closed(t *testing.T, address, name string) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if errors.Is(err, syscall.ECONNRESET) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	(&rawClient{c.(*net.TCPConn), t, bufio.NewReader(c)}).ends(name)
}

// The client is told as much as the mesh wants it to be; the log has all.
func TestReasonDetail(t *testing.T) {
	var log buffer
	m := start(t, func(c *proxy.Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	front := m.protect("web", httpPort, allow("shop/other", enforce, tcpRule), says(t, "web"))
	for detail, want := range map[configv1.ReasonDetail][2]string{
		configv1.ReasonDetail_REASON_DETAIL_CODE: {"source-denied", "tulle: no TrafficTarget lists the caller for this workload (source-denied)\n"},
		configv1.ReasonDetail_REASON_DETAIL_NONE: {"access-denied", "tulle: access denied (access-denied)\n"},
		configv1.ReasonDetail_REASON_DETAIL_FULL: {"source-denied", "tulle: no TrafficTarget lists the caller for this workload: shop/client to shop/web (source-denied)\n"},
	} {
		m.set("mesh", &configv1.Mesh{Zones: []string{"mesh"}, ReasonDetail: detail})
		c := dialRaw(t, front)
		c.say("GET /secret?q=1 HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, body := c.answer("GET")
		if got := [2]string{resp.Header.Get("Tulle-Reason"), body}; got != want || resp.StatusCode != 403 {
			t.Errorf("%v: %q, want %q", detail, got, want)
		}
	}
	line := `msg="access denied" reason=source-denied protocol=http from=shop/client client=127.0.0.1 to=web.shop port=80 workload=shop/web method=GET path=/secret`
	if got := log.String(); strings.Count(got, line+"\n") != 1 || strings.Count(got, "access denied") != 1 {
		t.Errorf("logged, want once %s:\n%s", line, got)
	}
	eventually(t, func() error { // requests are counted after their answers
		if got := m.metric("tulle_proxy_refusals_total", "reason", "source-denied"); got != 3 {
			return fmt.Errorf("%v refusals were counted", got)
		}
		return nil
	})
}

// In audit mode all passes as it is, and what would not is counted.
func TestAudit(t *testing.T) {
	m := start(t)
	address, heads := recorder(t, ok)
	front := m.protect("web", httpPort, allow("shop/client", audit, httpRule), address)
	for _, target := range []string{"/api", "//x%2f", "/denied"} {
		if got := outcome(t, front, target); got != "200" {
			t.Errorf("%s: %s", target, got)
		}
		if head := within(t, heads, "request"); !strings.HasPrefix(head, "GET "+target+" HTTP/1.1\r\n") {
			t.Errorf("%s arrived as\n%s", target, head)
		}
	}
	for reason, want := range map[string]float64{"route-denied": 1, "bad-path": 1, "source-denied": 0} {
		if got := m.metric("tulle_proxy_access_audit_total", "reason", reason); got != want {
			t.Errorf("%s: counted %v, want %v", reason, got, want)
		}
	}
}

// A workload whose policy is not known, or can't be used, is closed.
func TestNoPolicy(t *testing.T) {
	m := start(t)
	front := m.protect("web", httpPort, allow("shop/client", enforce, tcpRule), says(t, "web"))
	broken := &configv1.Policy{Mode: 9}
	if refused := m.try("shop/web", broken); len(refused) != 1 || !strings.Contains(refused[0].Reason, "mode") {
		t.Errorf("refused: %v", refused)
	}
	if got := outcome(t, front, "/"); got != "200" {
		t.Errorf("the policy before should be in use: %s", got)
	}
	m.remove(broken, "shop/web")
	if got := outcome(t, front, "/"); got != "503 no-policy" {
		t.Errorf("without a policy: %s", got)
	}
	m.try("shop/web", broken)
	if got := outcome(t, front, "/"); got != "403 no-target" {
		t.Errorf("with a broken one: %s", got)
	}
}

func TestAccessOfTCP(t *testing.T) {
	m := start(t)
	front := m.protect("db", tcpPort, allow("shop/client", enforce, tcpRule), rawServer(t, echo))
	c := dialRaw(t, front)
	c.exchange("hello")
	for name, change := range map[string]func(){
		"policy":  func() { m.set("shop/web", allow("shop/other", enforce, tcpRule)) },
		"removed": func() { m.set("shop/web", &configv1.Policy{Mode: enforce}) },
		"caller":  func() { m.callers(client("other")) },
		"nobody":  func() { m.callers(nil) },
		"gone":    func() { m.remove(&configv1.Policy{}, "shop/web") },
	} {
		m.set("shop/web", allow("shop/client", enforce, tcpRule))
		m.callers(client("client"))
		c := dialRaw(t, front)
		c.exchange("a")
		m.set("shop/web", allow("shop/client", enforce, tcpRule, udpRule)) // which leaves it allowed
		c.exchange("b")
		change()
		c.ends(name)
	}
	m.set("shop/web", allow("shop/client", enforce, httpRule, tcpRule))
	m.callers(client("client"))
	closed(t, front, "HTTP rules allow no TCP")
	if got := m.metric("tulle_proxy_access_cut_total", "protocol", "tcp"); got < 5 {
		t.Errorf("%v cuts were counted", got)
	}
}

func TestAccessOfUpgrades(t *testing.T) {
	m := start(t)
	front := m.protect("web", httpPort, allow("shop/client", enforce, tcpRule), shouter(t))
	c := shout(t, front)
	c.say("still\n")
	c.expect("STILL\n")
	m.set("shop/web", allow("shop/other", enforce, tcpRule))
	c.ends("upgraded")
}

func TestAccessOfUDP(t *testing.T) {
	m := start(t)
	front := m.protect("dns", udpPort, allow("shop/client", enforce, udpRule), echoUDP(t))
	c := dialUDP(t, front)
	dropped := func(name, reason string) {
		t.Helper()
		before := m.metric("tulle_proxy_refusals_total", "protocol", "udp", "reason", reason)
		if _, err := c.Write([]byte("dropped")); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() error {
			if m.metric("tulle_proxy_refusals_total", "protocol", "udp", "reason", reason) != before+1 {
				return fmt.Errorf("%s: no datagram was dropped as %s", name, reason)
			}
			return nil
		})
	}
	if got := c.ask("one"); got != "one" {
		t.Error(got)
	}
	m.set("shop/web", allow("shop/client", enforce, tcpRule))
	dropped("A6: TCP is not UDP", "port-denied")
	m.set("shop/web", allow("shop/client", enforce, udpRule))
	if got := c.ask("two"); got != "two" { // and not what was dropped
		t.Error(got)
	}
	m.callers(nil)
	dropped("nobody", "unknown-caller")
	m.callers(client("other"))
	dropped("another", "source-denied")
}

// Protection comes with the endpoints that it is about, and goes with them: no request gets through in between, none is
// refused that may pass.
func TestProtectionComesAndGoes(t *testing.T) {
	m := start(t)
	address := says(t, "web")
	front := m.protect("web", httpPort, allow("shop/client", enforce, tcpRule), address)
	open, closed := endpoints("web", httpPort, 80, address), endpoints("web", httpPort, 80, address)
	for i, e := range []*configv1.Endpoints{open, closed} {
		one := e.GetPorts()[0].GetEndpoints()[0]
		one.Workload, one.Protected = "shop/web", i == 1
	}
	stop := make(chan struct{})
	var g sync.WaitGroup
	var wrong string
	g.Go(func() {
		transport := &http.Transport{}
		defer transport.CloseIdleConnections()
		for {
			select {
			case <-stop:
				return
			default:
			}
			resp, err := transport.RoundTrip(mustRequest(front))
			if err != nil || resp.StatusCode != 200 {
				wrong = fmt.Sprint(resp, err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	})
	for range 200 {
		if r := m.Apply(configv1.Update{Set: []configv1.Resource{m.resource("shop/web", open)}, Removed: []configv1.Key{{Type: configv1.PolicyType, Name: "shop/web"}}}); r != nil {
			t.Fatal(r)
		}
		if r := m.Apply(configv1.Update{Set: []configv1.Resource{m.resource("shop/web", closed), m.resource("shop/web", allow("shop/client", enforce, tcpRule))}}); r != nil {
			t.Fatal(r)
		}
	}
	close(stop)
	g.Wait()
	if wrong != "" {
		t.Error(wrong)
	}
}

func mustRequest(front string) *http.Request {
	r, err := http.NewRequest(http.MethodGet, "http://"+front+"/", nil) //nolint:noctx // ends with the test's proxy
	if err != nil {
		panic(err)
	}
	return r
}
