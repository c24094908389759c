package proxy_test

import (
	"fmt"
	"net/http"
	"slices"
	"syscall"
	"testing"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

func TestListenersFollowTheConfig(t *testing.T) {
	m := start(t)
	front := m.serve("web", httpPort, says(t, "web"))
	kept := dialRaw(t, front)
	kept.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	kept.answer("GET")
	open := m.metric("tulle_proxy_listeners", "protocol", "tcp")

	moved := m.sockets.free()
	m.set("shop/web", service("web", httpPort, 80, moved))
	if got := ask(t, &http.Transport{}, m.sockets.address(httpPort, moved)); got != "web" {
		t.Errorf("new listener: %q", got)
	}
	if _, err := (&http.Transport{}).RoundTrip(request(t, front)); err == nil {
		t.Error("the old listener accepts")
	}
	if now := m.metric("tulle_proxy_listeners", "protocol", "tcp"); open != 1 || now != 1 {
		t.Errorf("%v listeners became %v", open, now)
	}
	// The connection goes on, and is asked to end.
	kept.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if resp, body := kept.answer("GET"); body != "web" || !resp.Close {
		t.Errorf("kept connection: %s %v %q", resp.Status, resp.Header, body)
	}

	m.remove(&configv1.Service{}, "shop/web")
	if want := []string{"tcp 127.0.0.1:20001", "tcp 127.0.0.1:20002"}; !slices.Equal(m.sockets.release, want) {
		t.Errorf("released %v, want %v", m.sockets.release, want)
	}
}

func request(t *testing.T, address string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestConnectionsOfAServiceThatIsGone(t *testing.T) {
	m := start(t)
	c := dialRaw(t, m.serve("web", httpPort, says(t, "web")))
	c.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	c.answer("GET")
	m.remove(&configv1.Service{}, "shop/web")
	c.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	resp, _ := c.answer("GET")
	refused(t, resp, 503, "no-service")
	if !resp.Close {
		t.Error("the connection stays")
	}
}

// A port that is taken costs that port only, and is opened once it is free.
func TestBusyPorts(t *testing.T) {
	m := start(t)
	m.set("shop/web", endpoints("web", httpPort, 80, says(t, "web")))
	s := service("web", httpPort, 80, 20001)
	s.Ports = append(s.Ports,
		&configv1.Port{Port: 81, Protocol: httpPort, TargetPort: 20002, Routes: s.Ports[0].Routes},
		&configv1.Port{Port: 53, Protocol: udpPort, TargetPort: 20002})
	m.sockets.block("tcp 127.0.0.1:20001", syscall.EADDRINUSE)
	m.sockets.block("udp 127.0.0.1:20002", syscall.EADDRINUSE)
	for range 2 { // offered again, it is refused again
		refused := m.try("shop/web", s)
		if len(refused) != 2 || refused[0].BusyPort != 20001 || refused[0].BusyUDP || refused[1].BusyPort != 20002 || !refused[1].BusyUDP {
			t.Fatalf("refused %+v", refused)
		}
	}
	if got := ask(t, &http.Transport{}, m.sockets.address(httpPort, 20002)); got != "web" {
		t.Errorf("the other port: %q", got)
	}
	if _, open := m.Service("shop", "web", ""); !open {
		t.Error("not open, though one port is")
	}
	m.sockets.block("tcp 127.0.0.1:20001", nil)
	eventually(t, func() error {
		if front := m.sockets.address(httpPort, 20001); front == "" {
			return errNotYet
		} else if got := ask(t, &http.Transport{DisableKeepAlives: true}, front); got != "web" {
			return fmt.Errorf("%q %w", got, errNotYet)
		}
		return nil
	})
	if refused := m.try("shop/web", s); len(refused) != 1 || !refused[0].BusyUDP {
		t.Errorf("refused %+v", refused)
	}
}

// Two services that are told the same target port: the first one has it until it lets go.
func TestTargetPortsOfTwoServices(t *testing.T) {
	m := start(t)
	m.versions("one", "two")
	m.set("shop/one", service("one", httpPort, 80, 20001))
	if refused := m.try("shop/two", service("two", httpPort, 80, 20001)); len(refused) != 1 || refused[0].BusyPort != 20001 {
		t.Fatalf("refused %+v", refused)
	}
	if _, open := m.Service("shop", "two", ""); open {
		t.Error("two is open on the port of one")
	}
	front := m.sockets.address(httpPort, 20001)
	client := &http.Transport{}
	if got := ask(t, client, front); got != "one" {
		t.Errorf("%q has the port", got)
	}
	m.remove(&configv1.Service{}, "shop/one")
	if got := ask(t, &http.Transport{}, m.sockets.address(httpPort, 20001)); got != "two" {
		t.Errorf("%q has the port now", got)
	}
	// A connection stays with the service that it was made for.
	if got := ask(t, client, front); got != "503 Service Unavailable no-service" {
		t.Errorf("the old connection: %q", got)
	}
}

// Two services may swap their target ports in one update.
func TestTargetPortsAreSwapped(t *testing.T) {
	m := start(t)
	m.versions("one", "two")
	m.set("shop/one", service("one", httpPort, 80, 20001))
	m.set("shop/two", service("two", httpPort, 80, 20002))
	refused := m.Apply(configv1.Update{Set: []configv1.Resource{
		m.resource("shop/one", service("one", httpPort, 80, 20002)),
		m.resource("shop/two", service("two", httpPort, 80, 20001)),
	}})
	if len(refused) > 0 {
		t.Fatalf("refused %+v", refused)
	}
	for port, want := range map[uint32]string{20001: "two", 20002: "one"} {
		if got := ask(t, &http.Transport{}, m.sockets.address(httpPort, port)); got != want {
			t.Errorf("%d: %q", port, got)
		}
	}
}

func shared(zones ...string) *configv1.Mesh {
	return &configv1.Mesh{Zones: zones, SharedListeners: []*configv1.SharedListener{{Port: 80, TargetPort: 20080}, {Port: 8080, TargetPort: 28080}}}
}

func TestSharedListenersGoByHost(t *testing.T) {
	m := start(t)
	m.versions("web", "api")
	pod := service("db", httpPort, 80, 0)
	pod.Pod = "db-0"
	pod.Ports[0].Routes[0].Backends[0].Service = "shop/db/db-0"
	m.set("shop/db/db-0", endpoints("db/db-0", httpPort, 80, says(t, "db-0")))
	m.set("shop/db/db-0", pod)
	for _, name := range []string{"web", "api"} {
		s := service(name, httpPort, 80, 0)
		s.Shared = true
		s.Ports = append(s.Ports, &configv1.Port{Port: 8080, Protocol: tcpPort, Routes: s.Ports[0].Routes})
		m.set("shop/"+name, s)
	}
	m.set("mesh", shared("mesh", "traefik.mesh"))
	front, other := m.sockets.address(httpPort, 20080), m.sockets.address(httpPort, 28080)
	unknown := "421 Misdirected Request unknown-host"
	for host, want := range map[string]string{
		"web.shop.mesh": "web", "api.shop.mesh": "api", "web.shop.traefik.mesh": "web", "WEB.Shop.MESH": "web", "web.shop.mesh.": "web",
		"web.shop.mesh:80": "web", "web.shop.mesh.:12345": "web", "web.shop.svc.local.mesh": "web", "web.shop.svc.local.traefik.mesh": "web",
		"db-0.db.shop.mesh": "db-0",
		"web.shop":          unknown, "web.shop.mesh.svc.cluster.local": unknown, "nobody.shop.mesh": unknown, "example.com": unknown,
		"mesh": unknown, "shop.mesh": unknown, ".shop.mesh": unknown, "web..mesh": unknown, "x.web.shop.mesh": unknown,
		"web.shop.mesh..": unknown, "10.0.0.1": unknown, "[::1]:80": unknown, "web.shop.mesh.evil": unknown, "db.shop.mesh": unknown,
	} {
		if got := ask(t, &http.Transport{DisableKeepAlives: true}, front, func(r *http.Request) { r.Host = host }); got != want {
			t.Errorf("%s: %q, want %q", host, got, want)
		}
	}
	if got := ask(t, &http.Transport{}, other, func(r *http.Request) { r.Host = "web.shop.mesh" }); got != unknown {
		t.Errorf("a port that is no HTTP port: %q", got)
	}
	if _, open := m.Service("shop", "web", ""); !open {
		t.Error("the shared listener doesn't count as open")
	}
	m.set("mesh", &configv1.Mesh{Zones: []string{"mesh"}})
	if _, open := m.Service("shop", "web", ""); open {
		t.Error("open without a listener")
	}
}

// The switch between a dedicated and the shared address serves both for a while, from the same splits.
func TestDedicatedAndSharedAtOnce(t *testing.T) {
	m := start(t)
	m.versions("v1", "v2")
	m.set("mesh", shared("mesh"))
	m.set("shop/web", split(service("web", httpPort, 80, 20001), shares{"v1": 1, "v2": 1}))
	dedicated, common := m.sockets.address(httpPort, 20001), m.sockets.address(httpPort, 20080)
	client := &http.Transport{}
	for range 5 {
		one := ask(t, client, dedicated)
		two := ask(t, client, common, func(r *http.Request) { r.Host = "web.shop.mesh" })
		if one == two {
			t.Errorf("both went to %q", one)
		}
	}
}

func TestView(t *testing.T) {
	m := start(t)
	if m.Mesh().GetZones()[0] != "mesh" {
		t.Errorf("mesh %v", m.Mesh())
	}
	if s, open := m.Service("shop", "web", ""); s != nil || open {
		t.Errorf("unknown service: %v %v", s, open)
	}
	m.set("shop/web", service("web", httpPort, 80, 0))
	if s, open := m.Service("shop", "web", ""); s.GetName() != "web" || open {
		t.Errorf("service without listener: %v %v", s, open)
	}
	m.set("shop/web", service("web", httpPort, 80, 20001))
	if s, open := m.Service("shop", "web", ""); s.GetPorts()[0].GetTargetPort() != 20001 || !open {
		t.Errorf("service with listener: %v %v", s, open)
	}
	if e := m.Endpoints("shop", "web"); e != nil {
		t.Errorf("endpoints %v", e)
	}
	m.set("shop/web", endpoints("web", httpPort, 80, "10.1.1.1:80"))
	if e := m.Endpoints("shop", "web"); e.GetPorts()[0].GetEndpoints()[0].GetAddress() != "10.1.1.1" {
		t.Errorf("endpoints %v", e)
	}
	m.remove(&configv1.Service{}, "shop/web")
	m.remove(&configv1.Endpoints{}, "shop/web")
	if s, _ := m.Service("shop", "web", ""); s != nil || m.Endpoints("shop", "web") != nil {
		t.Error("removed, but still there")
	}
}

func TestReadyAndOutOfSlices(t *testing.T) {
	m := start(t)
	if !m.Ready() {
		t.Error("not ready")
	}
	out := make(chan error, 1)
	go func() { out <- m.WaitOutOfSlices(t.Context()) }()
	m.set("shop/web", service("web", httpPort, 80, 0))
	select {
	case err := <-out:
		t.Fatalf("out of slices too early: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	m.set("me", &configv1.Proxy{Node: "here"})
	if err := within(t, out, "end of the wait"); err != nil {
		t.Error(err)
	}
	m.remove(&configv1.Proxy{}, "me")
	if m.Ready() {
		t.Error("ready without its own resource")
	}
}
