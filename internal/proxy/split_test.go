package proxy_test

import (
	"fmt"
	"maps"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

// shares are the weights of a route's backends, all of namespace shop.
type shares map[string]uint32

func backends(s shares) []*configv1.Backend {
	var out []*configv1.Backend
	for _, name := range []string{"web", "v1", "v2", "v3"} {
		if weight, ok := s[name]; ok {
			out = append(out, &configv1.Backend{Service: "shop/" + name, Port: 80, Weight: weight})
		}
	}
	return out
}

// split makes the last route of a service's port that of a TrafficSplit.
func split(s *configv1.Service, weights shares) *configv1.Service {
	routes := s.Ports[0].Routes
	routes[len(routes)-1] = &configv1.Route{Split: "shop/canary", Backends: backends(weights)}
	return s
}

// count makes n requests, over a few connections at once, and counts the answers.
func count(t *testing.T, front string, n int, change ...func(*http.Request)) map[string]int {
	t.Helper()
	client := &http.Transport{MaxIdleConnsPerHost: 8}
	defer client.CloseIdleConnections()
	got := map[string]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	work := make(chan struct{}, n)
	for range n {
		work <- struct{}{}
	}
	close(work)
	for range 8 {
		wg.Go(func() {
			for range work {
				answer := ask(t, client, front, change...)
				mu.Lock()
				got[answer]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return got
}

func ask(t *testing.T, client http.RoundTripper, front string, change ...func(*http.Request)) string {
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+front+"/", nil)
	if err != nil {
		t.Error(err)
		return ""
	}
	for _, f := range change {
		f(r)
	}
	resp, err := client.RoundTrip(r)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return resp.Status + " " + resp.Header.Get("tulle-reason")
	}
	return text(t, resp)
}

func (m *mesh) versions(names ...string) {
	m.t.Helper()
	for _, name := range names {
		m.set("shop/"+name, endpoints(name, httpPort, 80, says(m.t, name)))
	}
}

// T1, T2, T6: shares are exact over whole cycles, also with many requests at once.
func TestSplitsAreExact(t *testing.T) {
	m := start(t)
	m.versions("v1", "v2")
	for _, c := range []struct {
		weights  shares
		requests int
		want     map[string]int
	}{
		{shares{"v1": 90, "v2": 10}, 100, map[string]int{"v1": 90, "v2": 10}},
		{shares{"v1": 1000, "v2": 500}, 600, map[string]int{"v1": 400, "v2": 200}},
		{shares{"v1": 0, "v2": 100}, 50, map[string]int{"v2": 50}},
		{shares{"v1": 0, "v2": 0}, 5, map[string]int{"503 Service Unavailable no-backend": 5}},
		{shares{}, 5, map[string]int{"503 Service Unavailable no-backend": 5}},
	} {
		t.Run(fmt.Sprint(c.weights), func(t *testing.T) {
			target := m.sockets.free()
			m.set("shop/web", split(service("web", httpPort, 80, target), c.weights))
			if got := count(t, m.sockets.address(httpPort, target), c.requests); !maps.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// Config that doesn't touch a split doesn't touch whose turn it is.
func TestSplitsGoOnOverConfigChanges(t *testing.T) {
	m := start(t)
	m.versions("v1", "v2", "web")
	target := m.sockets.free()
	s := service("web", httpPort, 80, target)
	m.set("shop/web", split(s, shares{"v1": 9, "v2": 1}))
	front := m.sockets.address(httpPort, target)
	total := map[string]int{}
	for i := range 10 {
		for answer, n := range count(t, front, 3) {
			total[answer] += n
		}
		s := split(service("web", httpPort, 80, target), shares{"v1": 9, "v2": 1})
		s.PlainAddresses = []string{fmt.Sprintf("10.0.0.%d", i)}
		s.Ports[0].TimeoutMs = uint64(10000 + i)
		m.set("shop/web", s)
		m.set("shop/other", service("other", httpPort, 80, 0))
		m.versions("v1")
	}
	if want := map[string]int{"v1": 27, "v2": 3}; !maps.Equal(total, want) {
		t.Errorf("got %v, want %v", total, want)
	}
}

// T3: what fits a match takes its split, the rest goes to the root service.
func TestMatches(t *testing.T) {
	m := start(t)
	m.versions("web", "v1", "v2")
	target := m.sockets.free()
	s := service("web", httpPort, 80, target)
	s.Ports[0].Routes = append([]*configv1.Route{{
		Split: "shop/by-header", Backends: backends(shares{"v2": 1}),
		Matches: []*configv1.Match{
			{Headers: []*configv1.HeaderMatch{{Name: "x-canary", ValueRegex: "^(?:yes)$"}, {Name: "user-agent", ValueRegex: "Firefox"}}},
			{PathRegex: "^(?:/v2)", Methods: []string{"GET", "PUT"}},
		},
	}, {
		Split: "shop/by-host", Backends: backends(shares{"v1": 1}),
		Matches: []*configv1.Match{{Headers: []*configv1.HeaderMatch{{Name: "host", ValueRegex: `^one\.`}}}},
	}}, s.Ports[0].Routes...)
	m.set("shop/web", s)
	front := m.sockets.address(httpPort, target)
	for _, c := range []struct {
		name, want string
		change     func(*http.Request)
	}{
		{"nothing", "web", func(*http.Request) {}},
		{"one header of two", "web", func(r *http.Request) { r.Header.Set("X-Canary", "yes") }},
		{"both headers", "v2", func(r *http.Request) {
			r.Header.Set("X-Canary", "yes")
			r.Header.Set("User-Agent", "Mozilla Firefox/1")
		}},
		{"second value", "v2", func(r *http.Request) {
			r.Header["X-Canary"] = []string{"no", "yes"}
			r.Header.Set("User-Agent", "Firefox")
		}},
		{"other value", "web", func(r *http.Request) {
			r.Header.Set("X-Canary", "yes please")
			r.Header.Set("User-Agent", "Firefox")
		}},
		{"path", "v2", func(r *http.Request) { r.URL.Path = "/v2/a" }},
		{"path in the query", "web", func(r *http.Request) { r.URL.RawQuery = "/v2" }},
		{"the path's one form counts", "v2", func(r *http.Request) { r.URL.Opaque = "/%762" }},
		{"path with the wrong method", "web", func(r *http.Request) {
			r.URL.Path = "/v2"
			r.Method = http.MethodDelete
		}},
		{"host", "v1", func(r *http.Request) { r.Host = "one.two" }},
		{"first of two that fit", "v2", func(r *http.Request) {
			r.Host = "one.two"
			r.URL.Path = "/v2"
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := ask(t, &http.Transport{DisableKeepAlives: true}, front, c.change); got != c.want {
				t.Errorf("went to %s, want %s", got, c.want)
			}
		})
	}
}

// A share whose backend has no ready endpoint fails visibly: a canary that doesn't start must not look healthy.
func TestShareWithoutEndpointsIsRefused(t *testing.T) {
	m := start(t)
	m.versions("v1")
	target := m.sockets.free()
	m.set("shop/web", split(service("web", httpPort, 80, target), shares{"v1": 3, "v2": 1}))
	front := m.sockets.address(httpPort, target)
	want := map[string]int{"v1": 30, "503 Service Unavailable no-endpoint": 10}
	if got := count(t, front, 40); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	m.versions("v2")
	if got := count(t, front, 40); !maps.Equal(got, map[string]int{"v1": 30, "v2": 10}) {
		t.Errorf("with endpoints: %v", got)
	}
}

// A regular expression that can't be used refuses its service, which stays what it was; all else is in use.
func TestUnusableResourcesAreRefused(t *testing.T) {
	m := start(t)
	front := m.serve("web", httpPort, says(t, "web"))
	bad := service("web", httpPort, 80, 15001)
	bad.Ports[0].Routes[0].Matches = []*configv1.Match{{PathRegex: "("}}
	other := m.sockets.free()
	refused := m.Apply(configv1.Update{Set: []configv1.Resource{
		m.resource("shop/web", bad),
		m.resource("shop/other", endpoints("other", httpPort, 80, says(t, "other"))),
		m.resource("shop/nonsense", &configv1.Endpoints{Ports: []*configv1.EndpointPort{{Port: 80, Endpoints: []*configv1.Endpoint{{Address: "nowhere", Port: 1}}}}}),
		m.resource("shop/other", service("other", httpPort, 80, other)),
	}})
	if len(refused) != 2 || refused[0].Name != "shop/web" || refused[1].Name != "shop/nonsense" || refused[0].BusyPort != 0 {
		t.Fatalf("refused %+v", refused)
	}
	client := &http.Transport{DisableKeepAlives: true}
	if got := ask(t, client, front); got != "web" {
		t.Errorf("the old config answers %q", got)
	}
	if got := ask(t, client, m.sockets.address(httpPort, other)); got != "other" {
		t.Errorf("the other service answers %q", got)
	}
}

func TestNonsenseInServicesIsRefused(t *testing.T) {
	m := start(t)
	for name, change := range map[string]func(*configv1.Service){
		"no protocol":  func(s *configv1.Service) { s.Ports[0].Protocol = 0 },
		"port 0":       func(s *configv1.Service) { s.Ports[0].Port = 0 },
		"port 65536":   func(s *configv1.Service) { s.Ports[0].Port = 65536 },
		"target port":  func(s *configv1.Service) { s.Ports[0].TargetPort = 70000 },
		"twice":        func(s *configv1.Service) { s.Ports = append(s.Ports, s.Ports[0]) },
		"bind address": func(s *configv1.Service) { s.BindAddress = "localhost" },
		"backend":      func(s *configv1.Service) { s.Ports[0].Routes[0].Backends[0].Service = "" },
		"backend port": func(s *configv1.Service) { s.Ports[0].Routes[0].Backends[0].Port = 0 },
		"header's regex": func(s *configv1.Service) {
			s.Ports[0].Routes[0].Matches = []*configv1.Match{{Headers: []*configv1.HeaderMatch{{Name: "a", ValueRegex: "["}}}}
		},
		"header's name": func(s *configv1.Service) {
			s.Ports[0].Routes[0].Matches = []*configv1.Match{{Headers: []*configv1.HeaderMatch{{Name: "a b"}}}}
		},
		"path's language": func(s *configv1.Service) { s.Ports[0].Routes[0].Matches = []*configv1.Match{{PathRegex: "(?=x)"}} },
	} {
		s := service("web", httpPort, 80, 0)
		change(s)
		if refused := m.try("shop/web", s); len(refused) != 1 {
			t.Errorf("%s: refused %v", name, refused)
		}
	}
	if s, _ := m.Service("shop", "web", ""); s != nil {
		t.Errorf("in use: %v", s)
	}
}

func TestTCPSplitsAreExactPerConnection(t *testing.T) {
	m := start(t)
	for _, name := range []string{"v1", "v2"} {
		m.set("shop/"+name, endpoints(name, tcpPort, 80, rawServer(t, func(c net.Conn) { fmt.Fprintln(c, name) })))
	}
	target := m.sockets.free()
	m.set("shop/web", split(service("web", tcpPort, 80, target), shares{"v1": 3, "v2": 1}))
	got := map[string]int{}
	for range 20 {
		c := dialRaw(t, m.sockets.address(tcpPort, target))
		line, _ := c.r.ReadString('\n')
		got[line]++
	}
	if !maps.Equal(got, map[string]int{"v1\n": 15, "v2\n": 5}) {
		t.Errorf("got %v", got)
	}
}

func TestUDPSplitsAreExactPerFlow(t *testing.T) {
	m := start(t)
	for _, name := range []string{"v1", "v2"} {
		m.set("shop/"+name, endpoints(name, udpPort, 80, answerUDP(t, name)))
	}
	target := m.sockets.free()
	m.set("shop/web", split(service("web", udpPort, 80, target), shares{"v1": 3, "v2": 1}))
	got := map[string]int{}
	for range 20 {
		c := dialUDP(t, m.sockets.address(udpPort, target))
		first := c.ask("a")
		if second := c.ask("b"); second != first {
			t.Errorf("one flow, two backends: %q and %q", first, second)
		}
		got[first]++
	}
	if !maps.Equal(got, map[string]int{"v1": 15, "v2": 5}) {
		t.Errorf("got %v", got)
	}
}

// udpClient is a connected socket.
type udpClient struct {
	net.Conn
	t *testing.T
}

func dialUDP(t *testing.T, address string) *udpClient {
	t.Helper()
	c, err := net.Dial("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &udpClient{c, t}
}

// ask sends a datagram and returns the answer.
func (c *udpClient) ask(s string) string {
	c.t.Helper()
	if _, err := c.Write([]byte(s)); err != nil {
		c.t.Fatal(err)
	}
	return c.answer()
}

func (c *udpClient) answer() string {
	c.t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		c.t.Fatal(err)
	}
	b := make([]byte, 1<<16)
	n, err := c.Read(b)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(b[:n])
}

// answerUDP answers every datagram with the same word.
func answerUDP(t *testing.T, word string) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 100)
		for {
			_, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			if _, err := c.WriteTo([]byte(word), from); err != nil {
				return
			}
		}
	}()
	return c.LocalAddr().String()
}
