package proxy_test

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/proxy/tunnel"
)

// here is a proxy on whose node the pod shop/api-1 runs, the second port of which nobody exposes.
func here(t *testing.T, exposed netip.AddrPort, udp bool) *proxy.Proxy {
	t.Helper()
	endpoint := func(addr string, port uint32) *configv1.Endpoint {
		return &configv1.Endpoint{Address: addr, Port: port, Pod: "api-1", Workload: "shop/api"}
	}
	var u configv1.Update
	for name, m := range map[string]proto.Message{
		"p1": &configv1.Proxy{Node: "node-b", Callers: []*configv1.Caller{{
			Addresses: []string{exposed.Addr().String()}, Namespace: "shop", Pod: "api-1", ServiceAccount: "api",
		}, {
			Addresses: []string{"10.1.0.7"}, Namespace: "shop", Pod: "api-7", ServiceAccount: "admin",
		}, {
			Addresses: []string{"10.1.0.8"}, Namespace: "shop", Pod: "api-8", ServiceAccount: "admin",
		}}},
		"shop/api": &configv1.Endpoints{Namespace: "shop", Name: "api", Ports: []*configv1.EndpointPort{{
			Port: 80, Udp: udp, Endpoints: []*configv1.Endpoint{endpoint(exposed.Addr().String(), uint32(exposed.Port())), endpoint("10.1.2.3", 8080), endpoint("10.1.0.7", 8080), {
				Address: "10.1.0.8", Port: 8080, Pod: "api-8", Workload: "shop/api",
			}},
		}}},
	} {
		r, err := configv1.NewResource(name, m)
		if err != nil {
			t.Fatal(err)
		}
		u.Set = append(u.Set, r)
	}
	p := proxy.New(proxy.Config{})
	if refused := p.Apply(u); len(refused) > 0 {
		t.Fatal(refused)
	}
	return p
}

func TestTunnelsLeadToThisNodesExposedPortsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := netip.MustParseAddrPort
		good := tunnel.Destination{Address: at("10.1.0.1:8080"), Pod: "shop/api-1", Service: "shop/api", Port: 80}
		p := here(t, good.Address, false)
		for _, tc := range []struct {
			what string
			edit func(*tunnel.Destination)
			want tunnel.Reason
		}{
			{"as it is", func(*tunnel.Destination) {}, ""},
			{"HTTP", func(d *tunnel.Destination) { d.HTTP = true }, ""},
			{"a pod of another node", func(d *tunnel.Destination) { d.Address, d.Pod = at("10.1.2.3:8080"), "shop/api-2" }, tunnel.NotHere},
			{"the node itself", func(d *tunnel.Destination) { d.Address = at("127.0.0.1:8080") }, tunnel.NotHere},
			{"another pod's name", func(d *tunnel.Destination) { d.Pod = "shop/api-0" }, tunnel.NotExposed},
			{"another namespace's pod", func(d *tunnel.Destination) { d.Pod = "other/api-1" }, tunnel.NotExposed},
			{"a port that no Service exposes", func(d *tunnel.Destination) { d.Address = at("10.1.0.1:9090") }, tunnel.NotExposed},
			{"the Service's port is another", func(d *tunnel.Destination) { d.Port = 81 }, tunnel.NotExposed},
			{"UDP where TCP is exposed", func(d *tunnel.Destination) { d.UDP = true }, tunnel.NotExposed},
			{"who had the address before", func(d *tunnel.Destination) { d.Address = at("10.1.0.7:8080"); d.Pod = "shop/api-7" }, tunnel.NotExposed},
			{"who has another identity now", func(d *tunnel.Destination) { d.Address = at("10.1.0.8:8080"); d.Pod = "shop/api-8" }, tunnel.NotExposed},
			{"another Service", func(d *tunnel.Destination) { d.Service = "shop/web" }, tunnel.NotExposed},
		} {
			d := good
			tc.edit(&d)
			if got := p.CheckTunnel(d); got != tc.want {
				t.Errorf("%s: %q, want %q", tc.what, got, tc.want)
			}
		}
		if got := proxy.New(proxy.Config{}).CheckTunnel(good); got != tunnel.NotHere {
			t.Errorf("before any config: %q", got)
		}
	})
}

// The proxies of two nodes hear of a new pod at about the same time.
func TestDestinationsThatAreOnTheirWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := tunnel.Destination{Address: netip.MustParseAddrPort("10.1.0.2:8080"), Pod: "shop/api-2", Service: "shop/api", Port: 80}
		p := here(t, netip.MustParseAddrPort("10.1.0.1:8080"), false)
		r, err := configv1.NewResource("p1", &configv1.Proxy{Node: "node-b", Callers: []*configv1.Caller{{
			Addresses: []string{"10.1.0.2"}, Namespace: "shop", Pod: "api-2", ServiceAccount: "api",
		}}})
		if err != nil {
			t.Fatal(err)
		}
		e, err := configv1.NewResource("shop/api", &configv1.Endpoints{Namespace: "shop", Name: "api", Ports: []*configv1.EndpointPort{{
			Port: 80, Endpoints: []*configv1.Endpoint{{Address: "10.1.0.2", Port: 8080, Pod: "api-2", Workload: "shop/api"}},
		}}})
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(300*time.Millisecond, func() { p.Apply(configv1.Update{Set: []configv1.Resource{e}}) })
		time.AfterFunc(600*time.Millisecond, func() { p.Apply(configv1.Update{Set: []configv1.Resource{r}}) })
		if got := p.CheckTunnel(d); got != "" {
			t.Error(got)
		}
	})
}

// header answers with the values that a backend trusts.
func header(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "%v%v%v", r.Header["X-Forwarded-Client-Cert"], r.Header["X-Forwarded-For"], r.Header["Tulle-Caller"])
}

func forged(r *http.Request) {
	r.Header.Set("X-Forwarded-Client-Cert", "URI=spiffe://cluster.local/ns/shop/sa/admin")
	r.Header.Set("Tulle-Caller", "admin")
}

// Requests to a pod of another node are judged by the proxy there, one by one, by who proved to call.
func TestRequestsToAnotherNode(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	front := "http://" + c.expose("web", httpPort, allow("shop/client", enforce, httpRule), webServer(t, webAt, header))
	const known = "[By=spiffe://cluster.local/ns/shop/sa/web;URI=spiffe://cluster.local/ns/shop/sa/client]"
	for _, h2 := range []bool{false, true} {
		client, other, nobody := httpFrom(t, clientAt, h2), httpFrom(t, otherAt, h2), httpFrom(t, nobodyAt, h2)
		for range 3 { // on kept connections, turn by turn
			if got, want := call(client, front+"/api/x", forged), "200 "+known+"["+clientAt+"][]"; got != want {
				t.Errorf("h2 %v: %s, want %s", h2, got, want)
			}
			for what, got := range map[string][2]string{
				"a path that isn't allowed":   {call(client, front+"/x"), "403 route-denied"},
				"a path that is another":      {call(client, front+"/api/%2e%2e/x"), "403 route-denied"},
				"a path that is none":         {call(client, front+"/api/%2fx"), "400 bad-path"},
				"another account":             {call(other, front+"/api/x", forged), "403 source-denied"},
				"nobody":                      {call(nobody, front+"/api/x", forged), "403 unknown-caller"},
				"the same account, elsewhere": {call(httpFrom(t, "127.0.12.2", h2), front+"/api/x"), "503 caller-not-local"},
			} {
				if got[0] != got[1] {
					t.Errorf("h2 %v: %s: %s, want %s", h2, what, got[0], got[1])
				}
			}
		}
	}
	if n := c.a.metric("tulle_proxy_tunnel_client_connections_total"); n == 0 {
		t.Error("nothing went through a tunnel")
	}
	if n := c.b.metric("tulle_proxy_requests_total"); n != 0 {
		t.Errorf("%v requests are counted twice", n)
	}
}

// Whatever the caller's proxy thinks, the destination's decides.
func TestTheDestinationsProxyDecides(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	open := allow("shop/client", audit)
	front := c.expose("web", httpPort, open, webServer(t, webAt, header))
	tcp := c.expose("db", tcpPort, open, listenAt(t, webAt, echo))
	c.b.set("shop/web", allow("shop/other", enforce, httpRule))
	for _, h2 := range []bool{false, true} {
		if got := call(httpFrom(t, clientAt, h2), "http://"+front+"/api"); got != "403 source-denied" {
			t.Error(got)
		}
	}
	mustReset(t, clientAt, tcp)
	for _, protocol := range []string{"http", "tcp"} {
		eventually(t, func() error {
			if n := c.b.metric("tulle_proxy_refusals_total", "protocol", protocol, "reason", "source-denied"); n == 0 {
				return fmt.Errorf("no refusal of %s is counted", protocol)
			}
			return nil
		})
	}
	// In audit mode, what would be denied is counted once, where it is decided.
	c.b.set("shop/web", open)
	if got := call(httpFrom(t, clientAt, false), "http://"+front+"/api"); !strings.HasPrefix(got, "200") {
		t.Error(got)
	}
	if a, b := c.a.metric("tulle_proxy_access_audit_total"), c.b.metric("tulle_proxy_access_audit_total"); a != 0 || b != 1 {
		t.Errorf("%v and %v audits", a, b)
	}
}

func dialFrom(t *testing.T, address, to string) *net.TCPConn {
	t.Helper()
	c, err := from(address).Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(15 * time.Second))
	return c.(*net.TCPConn)
}

// mustReset expects that a connection is refused, which may show before the dial returns.
func mustReset(t *testing.T, address, to string) {
	t.Helper()
	c, err := from(address).Dial("tcp", to)
	if err == nil {
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(15 * time.Second))
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a connection from %s: %v", address, err)
	}
}

func TestGRPCToAnotherNode(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	target := grpcEcho(t)
	w := listenAt(t, webAt, func(in net.Conn) { relay(t, in, target) })
	front := c.expose("echo", httpPort, allow("shop/client", enforce, tcpRule), w)
	conn := grpcFrom(t, clientAt, front)
	t.Run("unary", func(t *testing.T) { grpcUnary(t, conn) })
	t.Run("bidi", func(t *testing.T) { grpcBidi(t, conn) })
	t.Run("error", func(t *testing.T) { grpcError(t, conn) })
	t.Run("trailers only", func(t *testing.T) { grpcTrailersOnly(t, conn) })
	t.Run("deadline", func(t *testing.T) { grpcDeadline(t, conn) })
	in, out := []byte("hello"), []byte(nil)
	err := grpcFrom(t, otherAt, front).Invoke(t.Context(), "/echo.Echo/Say", &in, &out)
	if grpcstatus.Code(err) != codes.PermissionDenied {
		t.Errorf("another account: %v", err)
	}
	c.b.set("shop/web", allow("shop/nobody", enforce, tcpRule))
	if err := conn.Invoke(t.Context(), "/echo.Echo/Say", &in, &out); grpcstatus.Code(err) != codes.PermissionDenied {
		t.Errorf("denied by the destination's proxy: %v", err)
	}
}

func grpcFrom(t *testing.T, address, to string) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient("passthrough:///"+to, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})), grpc.WithContextDialer(func(ctx context.Context, to string) (net.Conn, error) {
			return from(address).DialContext(ctx, "tcp", to)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// relay joins a connection with one to an address.
func relay(t *testing.T, in net.Conn, to string) {
	up, err := net.Dial("tcp", to)
	if err != nil {
		t.Error(err)
		return
	}
	defer up.Close()
	go func() {
		defer in.Close()
		_, _ = io.Copy(in, up)
	}()
	_, _ = io.Copy(up, in)
}

func TestConnectionsToAnotherNode(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	front := c.expose("db", tcpPort, allow("shop/client", enforce, tcpRule), listenAt(t, webAt, func(c net.Conn) {
		all, _ := io.ReadAll(c)
		_, _ = fmt.Fprintf(c, "%d bytes", len(all))
	}))
	for range 3 {
		conn := dialFrom(t, clientAt, front)
		if _, err := conn.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
		if err := conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(conn); err != nil || string(got) != "1048576 bytes" {
			t.Errorf("%q, %v", got, err)
		}
	}
	for _, who := range []string{otherAt, nobodyAt} {
		mustReset(t, who, front)
	}
}

// A connection that the destination's proxy may not carry any more ends within a second, whatever the caller's proxy knows.
func TestNewPoliciesEndLiveConnectionsToAnotherNode(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	yes, no := allow("shop/client", enforce, tcpRule, udpRule), allow("shop/other", enforce, tcpRule)
	tcp := c.expose("db", tcpPort, yes, listenAt(t, webAt, echo))
	web := c.expose("web", httpPort, yes, webServer(t, webAt, func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, _ = io.Copy(conn, rw)
	}))
	plain, upgraded := dialFrom(t, clientAt, tcp), dialFrom(t, clientAt, web)
	if _, err := io.WriteString(upgraded, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(upgraded)
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 101 {
		t.Fatalf("%v, %v", resp, err)
	}
	say := func(c net.Conn, r io.Reader) error {
		if _, err := io.WriteString(c, "x"); err != nil {
			return err
		}
		_, err := io.ReadFull(r, make([]byte, 1))
		return err
	}
	if err := errors.Join(say(plain, plain), say(upgraded, r)); err != nil {
		t.Fatal(err)
	}
	c.b.set("shop/web", yes) // what changes nothing ends nothing
	if err := errors.Join(say(plain, plain), say(upgraded, r)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	c.b.set("shop/web", no)
	for _, conn := range []net.Conn{plain, upgraded} {
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("it goes on")
		}
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestDatagramsToAnotherNode(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	server := whoUDP(t)
	front := c.expose("dns", udpPort, allow("shop/client", enforce, udpRule), server.LocalAddr().String())
	c.holds(c.a)

	flows := map[string]bool{}
	for i := range 20 {
		conn := udpFrom(t, clientAt, front)
		var port string
		for _, text := range []string{"one", strings.Repeat("x", 9000), fmt.Sprint(i)} {
			got, err := askUDP(conn, text)
			if err != nil {
				t.Fatal(err)
			}
			if port != "" && port != got {
				t.Error("a flow moved")
			}
			port = got
		}
		flows[port] = true
	}
	if len(flows) != 20 {
		t.Errorf("%d flows", len(flows))
	}
	if n := c.a.metric("tulle_proxy_tunnel_client_connections_total"); n != 1 {
		t.Errorf("flows took %v tunnels", n)
	}
	// Who may not call gets nothing; who may no longer neither.
	silent := func(what, who string) {
		conn := udpFrom(t, who, front)
		_, _ = io.WriteString(conn, "x")
		_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if n, err := conn.Read(make([]byte, 10)); err == nil {
			t.Errorf("%s: %d bytes", what, n)
		}
	}
	silent("another account", otherAt)
	c.b.set("shop/web", allow("shop/client", enforce, tcpRule))
	silent("after the policy changed", clientAt)
	c.b.set("shop/web", allow("shop/client", enforce, udpRule))
	eventually(t, func() error {
		_, err := askUDP(udpFrom(t, clientAt, front), "again")
		return err
	})
}

// whoUDP is a server in a pod that answers with who asks and what was said.
func whoUDP(t *testing.T) net.PacketConn {
	t.Helper()
	server, err := net.ListenPacket("udp", net.JoinHostPort(webAt, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := server.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(append([]byte(from.String()+" "), b[:n]...), from)
		}
	}()
	return server
}

// askUDP sends a datagram to such a server and returns who asked, to it.
func askUDP(conn net.Conn, text string) (string, error) {
	if _, err := io.WriteString(conn, text); err != nil {
		return "", err
	}
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, 1<<16)
	n, err := conn.Read(b)
	_, said, _ := strings.Cut(string(b[:n]), " ")
	if err == nil && said != text {
		err = fmt.Errorf("%q came back as %q", text, said)
	}
	port, _, _ := strings.Cut(string(b[:n]), " ")
	return port, err
}

// Flows that begin later than certificates allow get a connection with newer ones; those that there are go on.
func TestFlowsBeginOnFreshConnections(t *testing.T) {
	c := newCluster(t, clusterOptions{life: 4 * time.Second})
	c.holds(c.a)
	server := whoUDP(t)
	front := c.expose("dns", udpPort, allow("shop/client", enforce, udpRule), server.LocalAddr().String())
	first := udpFrom(t, clientAt, front)
	connections := func() float64 { return c.a.metric("tulle_proxy_tunnel_client_connections_total") }
	eventually(t, func() error {
		_, err := askUDP(first, "first")
		return err
	})
	if n := connections(); n != 1 {
		t.Fatalf("%v connections for one flow", n)
	}
	eventually(t, func() error {
		if _, err := askUDP(first, "first"); err != nil {
			return err
		}
		if _, err := askUDP(udpFrom(t, clientAt, front), "another"); err != nil {
			return err
		}
		if connections() < 2 {
			return errors.New("all flows share the first connection still")
		}
		return nil
	})
}

func udpFrom(t *testing.T, address, to string) net.Conn {
	t.Helper()
	c, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(address)}}).Dial("udp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// webs exposes two servers of the other node that say "web": one that only shop/client may call, and one that is not
// protected.
func (c *cluster) webs() (protected, open, server string) {
	c.t.Helper()
	web := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "web") }
	server = webServer(c.t, webAt, web)
	protected = c.expose("web", httpPort, allow("shop/client", enforce, tcpRule), server)
	return protected, c.expose("open", httpPort, nil, webServer(c.t, openAt, web)), server
}

// Without a proxy at the destination a protected pod is no endpoint, and never called in the clear; another one is.
func TestNoProxyAtTheDestination(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	c.holds(c.a)
	protected, open, server := c.webs()
	db := c.expose("db", tcpPort, allow("shop/client", enforce, tcpRule), listenAt(t, webAt, echo))
	h1, h2 := httpFrom(t, clientAt, false), httpFrom(t, clientAt, true)
	check := func(what, wantProtected, wantOpen string) {
		t.Helper()
		for _, client := range []*http.Client{h1, h2} {
			if got := call(client, "http://"+protected); got != wantProtected {
				t.Errorf("%s, protected: %s, want %s", what, got, wantProtected)
			}
			if got := call(client, "http://"+open); got != wantOpen {
				t.Errorf("%s, not protected: %s, want %s", what, got, wantOpen)
			}
		}
	}
	check("with a proxy", "200 web", "200 web")
	if n := c.a.metric("tulle_proxy_plain_total"); n != 0 {
		t.Errorf("%v calls in the clear", n)
	}
	c.unready("node-b")
	check("without a proxy", "503 no-proxy-at-destination", "200 web")
	if n := c.a.metric("tulle_proxy_plain_total", "reason", "no-proxy"); n != 2 {
		t.Errorf("%v calls in the clear", n)
	}
	mustReset(t, clientAt, db)
	c.ready("node-b", netip.MustParseAddrPort(c.wire.address))
	check("with one again", "200 web", "200 web")

	// A second pod, on a node without a proxy: the first one gets all.
	c.publish("shop/web", farEndpoints("web", httpPort, true, server, webServer(t, "127.0.12.2", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "plain") })))
	for range 10 {
		check("with another pod elsewhere", "200 web", "200 web")
	}
	if n := c.a.metric("tulle_proxy_retries_total"); n != 0 {
		t.Errorf("the other one was tried %v times", n)
	}
}

// A node whose proxy is of a version, or has settings, without identities is called as that version calls: what was served
// before an upgrade is served during it, and on the way back. The caller's proxy judges, as it did.
func TestProxyOfTheVersionBefore(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	c.holds(c.a)
	protected, open, _ := c.webs()
	db := c.expose("db", tcpPort, allow("shop/client", enforce, tcpRule), listenAt(t, webAt, echo))
	client, other := httpFrom(t, clientAt, false), httpFrom(t, otherAt, false)
	check := func(what string) {
		t.Helper()
		for _, front := range []string{protected, open} {
			if got := call(client, "http://"+front); got != "200 web" {
				t.Errorf("%s: %s", what, got)
			}
		}
		if got := call(other, "http://"+protected); got != "403 source-denied" {
			t.Errorf("%s, who may not: %s", what, got)
		}
		conn := dialFrom(t, clientAt, db)
		defer conn.Close()
		if _, err := io.WriteString(conn, "x"); err != nil {
			t.Error(what, err)
		}
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Error(what, err)
		}
	}
	c.publish("node-b", &configv1.NodeProxies{All: []string{"127.0.11.8"}, Plain: true})
	check("before")
	if plain, tunnels := c.a.metric("tulle_proxy_plain_total", "reason", "no-identities"), c.a.metric("tulle_proxy_tunnel_client_connections_total"); plain != 3 || tunnels != 0 {
		t.Errorf("%v calls in the clear and %v tunnels", plain, tunnels)
	}
	c.ready("node-b", netip.MustParseAddrPort(c.wire.address))
	check("after")
	if plain, tunnels := c.a.metric("tulle_proxy_plain_total", "reason", "no-identities"), c.a.metric("tulle_proxy_tunnel_client_connections_total"); plain != 3 || tunnels < 3 {
		t.Errorf("%v calls in the clear and %v tunnels", plain, tunnels)
	}
	c.publish("node-b", &configv1.NodeProxies{All: []string{"127.0.11.8"}, Plain: true})
	check("back")
	if plain := c.a.metric("tulle_proxy_plain_total", "reason", "no-identities"); plain != 6 {
		t.Errorf("%v calls in the clear", plain)
	}
	eventually(t, func() error { // it counts after its answer
		if denied := c.a.metric("tulle_proxy_refusals_total", "reason", "source-denied"); denied != 3 {
			return fmt.Errorf("the caller's proxy refused %v", denied)
		}
		return nil
	})
}

// A proxy that is out of reach takes its protected pods with it, and nothing else.
func TestProxyOutOfReach(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	c.holds(c.a)
	protected, open, _ := c.webs()
	db := c.expose("db", tcpPort, nil, listenAt(t, openAt, echo))
	c.wire.cut()
	for _, h2 := range []bool{false, true} {
		client := httpFrom(t, clientAt, h2)
		if got := call(client, "http://"+protected); got != "503 connect-failed" {
			t.Error(got)
		}
		if got := call(client, "http://"+open); got != "200 web" {
			t.Error(got)
		}
	}
	conn := dialFrom(t, clientAt, db)
	if _, err := io.WriteString(conn, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

// A proxy that was restarted without a controller has no SVID to show: it takes its protected pods with it, and nothing else.
func TestProxyWithoutCertificate(t *testing.T) {
	c := newCluster(t, clusterOptions{mute: true})
	c.holds(c.a)
	protected, open, _ := c.webs()
	client := httpFrom(t, clientAt, false)
	if got := call(client, "http://"+protected); got != "503 connect-failed" {
		t.Error(got)
	}
	for range 3 {
		if got := call(client, "http://"+open); got != "200 web" {
			t.Error(got)
		}
	}
	if n := c.a.metric("tulle_proxy_plain_total", "reason", "unreachable"); n != 3 {
		t.Errorf("%v calls in the clear, want all", n)
	}
}

// A proxy that has no controller doesn't hear of new pods, nor of another node's new proxy. That takes nothing away from what
// isn't protected.
func TestProxyThatKnowsNoNews(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	c.holds(c.a)
	protected, open, _ := c.webs()
	check := func(what string) {
		t.Helper()
		client := httpFrom(t, clientAt, false)
		if got := call(client, "http://"+protected); got != "503 connect-failed" {
			t.Errorf("%s, protected: %s", what, got)
		}
		before := c.a.metric("tulle_proxy_plain_total", "reason", "unreachable")
		for range 3 {
			if got := call(client, "http://"+open); got != "200 web" {
				t.Errorf("%s, not protected: %s", what, got)
			}
		}
		if n := c.a.metric("tulle_proxy_plain_total", "reason", "unreachable") - before; n != 3 {
			t.Errorf("%s: %v calls in the clear, want all", what, n)
		}
	}
	pods := c.b.me.GetCallers()
	c.b.me.Callers = nil
	c.b.set("node-b-proxy", c.b.me)
	check("pods that it doesn't know")
	c.b.me.Callers = pods
	c.b.set("node-b-proxy", c.b.me)
	c.stranger.Store(true)
	check("a proxy that it doesn't know")
}

// Not a byte of a call to another node is on the wire as it is: the pod's own wire, which sees all, is the control.
func TestNothingOnTheWire(t *testing.T) {
	const secret = "attack-at-dawn"
	c := newCluster(t, clusterOptions{})
	c.holds(c.a)
	server := webServer(t, "127.0.0.1", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(append(body, " at once"...))
	})
	for at, policy := range map[string]*configv1.Policy{openAt: nil, webAt: allow("shop/client", enforce, tcpRule)} {
		inPod := newWire(t, at, netip.Addr{}, server)
		front := c.expose("web", httpPort, policy, inPod.address)
		client := httpFrom(t, clientAt, false)
		resp, err := client.Post("http://"+front+"/"+secret, "text/"+secret, strings.NewReader(secret))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(body) != secret+" at once" {
			t.Fatalf("%s %s", resp.Status, body)
		}
		if seen, n := inPod.saw(secret); !seen {
			t.Errorf("the control has not seen it, in %d bytes", n)
		}
		if seen, n := c.wire.saw(secret); seen || n < 1000 {
			t.Errorf("seen between the nodes: %v, in %d bytes", seen, n)
		}
	}
}

// With SVIDs that live for four seconds, and a new root in between, no request fails.
func TestRenewalUnderRequests(t *testing.T) {
	c := newCluster(t, clusterOptions{life: 4 * time.Second})
	c.holds(c.a)
	front := "http://" + c.expose("web", httpPort, allow("shop/client", enforce, tcpRule), webServer(t, webAt, header))
	var wg sync.WaitGroup
	var done, failed atomic.Int64
	stop := time.Now().Add(7 * time.Second)
	for i := range 4 {
		wg.Go(func() {
			client := httpFrom(t, clientAt, i%2 == 1)
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for time.Now().Before(stop) {
				if got := call(client, front); !strings.HasPrefix(got, "200") {
					failed.Add(1)
					t.Error(got)
				}
				done.Add(1)
				<-tick.C
			}
		})
	}
	for range 2 {
		<-time.After(2 * time.Second)
		c.rotate()
	}
	wg.Wait()
	t.Logf("%d requests, %d failed, %v handshakes", done.Load(), failed.Load(), c.a.metric("tulle_proxy_tunnel_client_handshakes_total"))
	if n := c.a.metric("tulle_proxy_tunnel_client_handshakes_total"); n < 6 {
		t.Errorf("%v handshakes: nothing was renewed", n)
	}
}

// Calls that come at once need fewer handshakes than they are: most take a connection that another one has done with.
func TestManyCallsAtOnce(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	c.holds(c.a)
	web := "http://" + c.expose("web", httpPort, allow("shop/client", enforce, tcpRule), webServer(t, webAt, header))
	banner := c.expose("open", configv1.Protocol_PROTOCOL_TCP, nil, listenAt(t, openAt, func(c net.Conn) { _, _ = c.Write([]byte("hello")) }))
	const calls = 300
	for what, one := range map[string]func() string{
		"requests": func() string {
			client := httpFrom(t, clientAt, false)
			defer client.CloseIdleConnections()
			return call(client, web)[:3]
		},
		"connections": func() string {
			conn := dialFrom(t, clientAt, banner)
			defer conn.Close()
			b, err := io.ReadAll(conn)
			return cmp.Or(string(b), fmt.Sprint(err))
		},
	} {
		before := c.a.metric("tulle_proxy_tunnel_client_handshakes_total")
		var all sync.WaitGroup
		var served atomic.Int64
		for range calls {
			all.Go(func() {
				if got := one(); got == "200" || got == "hello" {
					served.Add(1)
				} else {
					t.Errorf("%s: %s", what, got)
				}
			})
		}
		all.Wait()
		made := c.a.metric("tulle_proxy_tunnel_client_handshakes_total") - before
		t.Logf("%d %s: %v handshakes", served.Load(), what, made)
		if made == 0 || made > calls/2 {
			t.Errorf("%d %s at once took %v handshakes", calls, what, made)
		}
	}
}

// What was kept for an identity goes when its last pod does.
func TestIdentitiesThatLeaveTheNode(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	c.holds(c.a)
	front := "http://" + c.expose("web", httpPort, nil, webServer(t, openAt, header))
	for _, who := range []string{clientAt, otherAt} {
		for _, h2 := range []bool{false, true} {
			if got := call(httpFrom(t, who, h2), front); !strings.HasPrefix(got, "200 [By=") {
				t.Error(got)
			}
		}
	}
	open := func() float64 { return c.b.metric("tulle_proxy_tunnel_server_open") }
	before := open()
	c.a.me.Callers = []*configv1.Caller{podAt(otherAt, "other")}
	c.want(c.a)
	c.a.set("node-a-proxy", c.a.me)
	eventually(t, func() error {
		if now := open(); now >= before || now == 0 {
			return fmt.Errorf("%v connections of %v", now, before)
		}
		return nil
	})
	if got := call(httpFrom(t, clientAt, false), front); got != "200 []["+clientAt+"][]" {
		t.Errorf("who has left is somebody: %s", got)
	}
	if got := call(httpFrom(t, otherAt, false), front); !strings.Contains(got, "sa/other") {
		t.Errorf("who has not left is nobody: %s", got)
	}
}

// Callers take turns on the same service at the same time, and each is told from the others.
func TestCallersShareNoConnection(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	c.holds(c.a)
	front := "http://" + c.expose("web", httpPort, nil, webServer(t, openAt, header))
	var wg sync.WaitGroup
	for who, account := range map[string]string{clientAt: "client", otherAt: "other"} {
		for _, h2 := range []bool{false, true} {
			for range 4 {
				client := httpFrom(t, who, h2)
				wg.Go(func() {
					want := "200 [By=spiffe://cluster.local/ns/shop/sa/open;URI=spiffe://cluster.local/ns/shop/sa/" + account + "][" + who + "][]"
					for range 25 {
						if got := call(client, front); got != want {
							t.Errorf("%s, want %s", got, want)
						}
					}
				})
			}
		}
	}
	wg.Wait()
}

// What a pod wants, HTTP/2 or TLS, is spoken to it by the proxy of its node.
func TestSchemesOnAnotherNode(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	plain := webServer(t, webAt, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Proto) })
	secure := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Proto, " with TLS") }))
	secure.EnableHTTP2 = true
	secure.StartTLS()
	t.Cleanup(secure.Close)
	inPod := listenAt(t, webAt, func(in net.Conn) { relay(t, in, secure.Listener.Addr().String()) })
	for _, tc := range []struct {
		scheme  configv1.Scheme
		address string
		want    string
	}{
		{configv1.Scheme_SCHEME_HTTP, plain, "200 HTTP/1.1"},
		{configv1.Scheme_SCHEME_H2C, plain, "200 HTTP/2.0"},
		{configv1.Scheme_SCHEME_HTTPS, inPod, "200 HTTP/2.0 with TLS"},
	} {
		c.expose("web", httpPort, allow("shop/client", enforce, httpRule), tc.address)
		s := service("web", httpPort, 80, c.target)
		s.GetPorts()[0].GetRoutes()[0].GetBackends()[0].Scheme = tc.scheme
		c.publish("shop/web", s)
		front := "http://" + c.a.sockets.address(httpPort, c.target)
		for _, h2 := range []bool{false, true} {
			client := httpFrom(t, clientAt, h2)
			if got := call(client, front+"/api"); got != tc.want {
				t.Errorf("%v, h2 %v: %s", tc.scheme, h2, got)
			}
			if got := call(client, front+"/x"); got != "403 route-denied" {
				t.Errorf("%v, h2 %v: %s", tc.scheme, h2, got)
			}
		}
	}
}

// Only a Service of the destination proxy's own config lets %2F in.
func TestEncodedSlashOnAnotherNode(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	c.expose("web", httpPort, allow("shop/client", enforce, httpRule), webServer(t, webAt, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.RequestURI) }))
	s := service("web", httpPort, 80, c.target)
	s.GetPorts()[0].EncodedSlash = true
	c.a.set("shop/web", s)
	front := "http://" + c.a.sockets.address(httpPort, c.target)
	if got := call(httpFrom(t, clientAt, false), front+"/api%2Fx"); got != "400 bad-path" {
		t.Errorf("by the word of another proxy: %s", got)
	}
	c.b.set("shop/web", s)
	if got := call(httpFrom(t, clientAt, true), front+"/api%2Fx"); got != "200 /api%2Fx" { // on a new connection
		t.Errorf("by its own config: %s", got)
	}
}

// No proxy can say of a pod of its node's network what it is, nor of a pod of no node: from other nodes it is called in the
// clear, or not at all.
func TestPodsThatNoProxySpeaksFor(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	server := webServer(t, webAt, header)
	yes := allow("shop/client", enforce, tcpRule)
	for _, tc := range []struct {
		node   string
		host   bool
		policy *configv1.Policy
		want   string
		plain  string
	}{
		{"", false, yes, "503 no-proxy-at-destination", ""},
		{"", false, nil, "200 [", "no-proxy"},
		{"node-b", true, yes, "503 no-proxy-at-destination", ""},
		{"node-b", true, nil, "200 [", "host-network"},
		{"node-a", true, yes, "200 [By=spiffe://cluster.local/ns/shop/sa/web;URI=spiffe://cluster.local/ns/shop/sa/client]", ""},
		{"node-a", true, allow("shop/other", enforce, tcpRule), "403 source-denied", ""},
	} {
		front := c.expose("web", httpPort, tc.policy, server)
		e := farEndpoints("web", httpPort, tc.policy != nil, server)
		one := e.GetPorts()[0].GetEndpoints()[0]
		one.Node, one.HostNetwork = tc.node, tc.host
		c.publish("shop/web", e)
		before := c.a.metric("tulle_proxy_plain_total", "reason", tc.plain)
		if got := call(httpFrom(t, clientAt, false), "http://"+front); !strings.HasPrefix(got, tc.want) {
			t.Errorf("%+v: %s", tc, got)
		}
		if tc.plain != "" && c.a.metric("tulle_proxy_plain_total", "reason", tc.plain) != before+1 {
			t.Errorf("%+v: not counted", tc)
		}
	}
	if n := c.a.metric("tulle_proxy_tunnel_client_connections_total"); n != 0 {
		t.Errorf("%v tunnels", n)
	}
}

// Every metric of tunnels is in the documentation, and the other way round.
func TestTunnelMetricsAreDocumented(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	c.holds(c.a)
	server := webServer(t, openAt, header)
	call(httpFrom(t, clientAt, false), "http://"+c.expose("web", httpPort, nil, server))
	call(httpFrom(t, nobodyAt, false), "http://"+c.expose("web", httpPort, nil, server)) // in the clear
	c.expose("db", tcpPort, allow("shop/client", enforce, tcpRule), unusedAt(t))
	mustReset(t, clientAt, c.a.sockets.address(tcpPort, c.target)) // refused
	bad, err := from("127.0.10.1").Dial("tcp", c.b.listen.String())
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(bad, "no TLS at all") // fails
	bad.Close()
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "# Metrics of identities and tunnels")
	section, _, _ = strings.Cut(section, "# Metrics of the controller")
	documented := map[string]bool{}
	for _, name := range regexp.MustCompile("`(tulle_proxy_(tunnel|plain)_[a-z_]+)`").FindAllStringSubmatch(section, -1) {
		documented[name[1]] = true
	}
	eventually(t, func() error {
		served := map[string]bool{}
		for _, n := range []*farNode{c.a, c.b} {
			families, err := n.metrics.Gather()
			if err != nil {
				return err
			}
			for _, f := range families {
				if name := f.GetName(); strings.HasPrefix(name, "tulle_proxy_tunnel_") || strings.HasPrefix(name, "tulle_proxy_plain_") {
					served[name] = true
				}
			}
		}
		if !maps.Equal(served, documented) || len(served) < 10 {
			return fmt.Errorf("served     %v\ndocumented %v", slices.Sorted(maps.Keys(served)), slices.Sorted(maps.Keys(documented)))
		}
		return nil
	})
}

// unusedAt is an address of the pod where nobody listens.
func unusedAt(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(webAt, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
