package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// meshNames: calls by mesh name go through the proxy of the client's own node, in every protocol.
func meshNames(t *testing.T, e *env) {
	ns := e.namespace(t, "e2e-mesh", "pod-security.kubernetes.io/enforce: restricted")
	e.apply(t, ns, file(t, "backend.yaml", "$NAME", "web", "$REPLICAS", "2", "$VERSION", "v1"))
	e.apply(t, ns, file(t, "backend.yaml", "$NAME", "other", "$REPLICAS", "1", "$VERSION", "v1"))
	e.rollout(t, ns, "deployment/web", "deployment/other")
	for _, c := range e.clients {
		e.inARow(t, "a mesh name from "+c.node, 3, settleTimeout, func() error { return c.allOK(t, "get", "http://web.e2e-mesh.mesh/") })
	}
	t.Run("through the own node's proxy", func(t *testing.T) { ownNode(t, e) })
	t.Run("protocols", func(t *testing.T) { protocols(t, e) })
	t.Run("two TCP services on one port", func(t *testing.T) { onePortNumber(t, e) })
	t.Run("what the application sees", func(t *testing.T) {
		s := e.clients[0].call(t, "get", "-host", "other.example", "-H", "X-Forwarded-For: 192.0.2.1", "http://web.e2e-mesh.mesh/a%2Fb/../c?d=%20")
		a := s.Last
		if a == nil {
			t.Fatalf("no answer: %+v", s)
		}
		if a.Host != "other.example" || a.URI != "/a%2Fb/../c?d=%20" || a.Version != "v1" {
			t.Errorf("the server saw %+v", a)
		}
		if f := strings.Join(a.Headers["X-Forwarded-For"], ", "); !strings.HasPrefix(f, "192.0.2.1, 10.") {
			t.Errorf("X-Forwarded-For is %q, want the client's address appended", f)
		}
	})
	t.Run("names", func(t *testing.T) { names(t, e) })
	t.Run("kinds of services", func(t *testing.T) { kindsOfServices(t, e) })
	t.Run("refused endpoints", func(t *testing.T) { refusedEndpoints(t, e) })
}

func ownNode(t *testing.T, e *env) {
	requests := func() map[string]float64 {
		n := map[string]float64{}
		for _, p := range e.proxies(t) {
			n[p.node] += e.metrics(t, p, proxyMetricsPort).sum("tulle_proxy_requests_total", nil)
		}
		return n
	}
	for _, c := range e.clients {
		before := requests()
		s := c.call(t, "get", "-n", "500", "-c", "8", "http://web.e2e-mesh.mesh/")
		if s.OK != 500 || s.ByVersion["v1"] != 500 {
			t.Errorf("500 calls from %s: %+v", c.node, s)
		}
		after := requests()
		for node := range after {
			want := 0.0
			if node == c.node {
				want = 500
			}
			if got := after[node] - before[node]; got != want {
				t.Errorf("500 calls from %s: the proxy of %s served %v, want %v", c.node, node, got, want)
			}
		}
		before = requests()
		if err := c.allOK(t, "get", "-n", "50", "http://web.e2e-mesh/"); err != nil {
			t.Error(err)
		}
		if after := requests(); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("calls by the plain name touched the mesh: requests were %v and are %v", before, after)
		}
	}
}

func protocols(t *testing.T, e *env) {
	for name, args := range map[string][]string{
		"keep-alive": {"get", "-n", "20", "-c", "4", "-keepalive", "http://web.e2e-mesh.mesh"},
		"h2c":        {"get", "-n", "20", "-h2c", "http://web.e2e-mesh.mesh"},
		"tls":        {"get", "-n", "20", "https://web.e2e-mesh.mesh"},
		"websocket":  {"ws", "-n", "20", "http://web.e2e-mesh.mesh/chat"},
		"tcp":        {"tcp", "-n", "20", "web.e2e-mesh.mesh:9000"},
		"banner":     {"tcp", "-n", "20", "-banner", "web.e2e-mesh.mesh:9001"},
		"udp":        {"udp", "-n", "20", "web.e2e-mesh.mesh:9002"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, c := range e.clients {
				if err := c.allOK(t, args...); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// Two services with the same TCP port number are told apart by their addresses alone.
func onePortNumber(t *testing.T, e *env) {
	for _, name := range []string{"web", "other"} {
		s := e.clients[0].call(t, "tcp", "-n", "10", name+".e2e-mesh.mesh:9000")
		if s.OK != 10 {
			t.Errorf("%s: %+v", name, s)
		}
		for pod := range s.ByPod {
			if !strings.HasPrefix(pod, name+"-") {
				t.Errorf("%s:9000 was answered by %s", name, pod)
			}
		}
	}
}

func names(t *testing.T, e *env) {
	c := e.clients[0]
	address := c.resolve(t, "web.e2e-mesh.mesh")
	if address.RCode != "success" || len(address.Answers) != 1 || address.TTL > 5 {
		t.Fatalf("the mesh name: %+v", address)
	}
	for _, name := range []string{"WEB.e2e-Mesh.mesh", "web.e2e-mesh.svc.local.mesh", "web.e2e-mesh.mesh."} {
		if l := c.resolve(t, name); fmt.Sprint(l.Answers) != fmt.Sprint(address.Answers) {
			t.Errorf("%s is %+v, want %v", name, l, address.Answers)
		}
	}
	if l := c.resolve(t, "-tcp", "web.e2e-mesh.mesh"); fmt.Sprint(l.Answers) != fmt.Sprint(address.Answers) {
		t.Errorf("over TCP: %+v", l)
	}
	if l := c.resolve(t, "-type", "SRV", "_http._tcp.web.e2e-mesh.mesh"); l.RCode != "success" || len(l.Answers) != 1 {
		t.Errorf("SRV: %+v", l)
	}
	if l := c.resolve(t, "nobody.e2e-mesh.mesh"); l.RCode != "name-error" || l.SOAMinimum == nil || *l.SOAMinimum != 2 {
		t.Errorf("a name that isn't there: %+v", l)
	}
	if l := c.resolve(t, "-search", "web.e2e-mesh.mesh"); fmt.Sprint(l.Answers) != fmt.Sprint(address.Answers) {
		t.Errorf("by the search path: %+v", l)
	}
}

// kindsOfServices calls each service of testdata/services.yaml by its mesh name.
func kindsOfServices(t *testing.T, e *env) {
	ns := e.namespace(t, "e2e-kinds", "pod-security.kubernetes.io/enforce: restricted")
	e.apply(t, ns, file(t, "backend.yaml", "$NAME", "web", "$REPLICAS", "2", "$VERSION", "v1"))
	e.apply(t, ns, file(t, "services.yaml"))
	e.rollout(t, ns, "deployment/web")
	long := strings.Repeat("s", 60)
	longNamespace := e.namespace(t, "e2e-"+strings.Repeat("n", 56), "pod-security.kubernetes.io/enforce: restricted")
	e.apply(t, longNamespace, file(t, "backend.yaml", "$NAME", "web", "$REPLICAS", "1", "$VERSION", "v1"))
	e.apply(t, longNamespace, "{apiVersion: v1, kind: Service, metadata: {name: "+long+"}, spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}}")
	e.rollout(t, longNamespace, "deployment/web")
	for name, args := range map[string][]string{
		"headless":            {"get", "-n", "10", "http://headless.e2e-kinds.mesh:8080"},
		"second service":      {"get", "-n", "10", "http://second.e2e-kinds.mesh:8888"},
		"node port":           {"get", "-n", "10", "http://nodeport.e2e-kinds.mesh"},
		"tcp and udp, tcp":    {"tcp", "-n", "10", "both.e2e-kinds.mesh:53"},
		"tcp and udp, udp":    {"udp", "-n", "10", "both.e2e-kinds.mesh:53"},
		"60+60 characters":    {"get", "-n", "10", "http://" + long + "." + longNamespace + ".mesh"},
		"annotated as tcp":    {"get", "-n", "10", "http://astcp.e2e-kinds.mesh"},
		"target port by name": {"get", "-n", "10", "http://named.e2e-kinds.mesh"},
	} {
		t.Run(name, func(t *testing.T) {
			e.inARow(t, "answers", 2, settleTimeout, func() error { return e.clients[0].allOK(t, args...) })
		})
	}
	t.Run("selectorless", func(t *testing.T) {
		ip := e.pods(t, ns, "app=web")[0].ip
		e.apply(t, ns, file(t, "selectorless.yaml", "$NAME", "mine", "$ADDRESS", ip))
		e.inARow(t, "answers", 2, settleTimeout, func() error { return e.clients[0].allOK(t, "get", "http://mine.e2e-kinds.mesh") })
	})
	t.Run("a pod that calls itself", func(t *testing.T) {
		for _, self := range e.clientsOf(t, ns, "app=web") {
			s := self.call(t, "get", "-n", "20", "http://web.e2e-kinds.mesh/")
			if s.OK != 20 || s.ByPod[self.pod] == 0 {
				t.Errorf("%s calling its own service: %+v", self.pod, s)
			}
		}
	})
}

// refusedEndpoints: addresses that are nobody's business get no traffic, and the Service says so. (Loopback and
// link-local addresses the API server refuses itself; fixtures have them.)
func refusedEndpoints(t *testing.T, e *env) {
	ns := e.namespace(t, "e2e-refused")
	nodeAddress := e.run(t, "get", "node", e.clients[0].node, "-o", `jsonpath={.status.addresses[?(@.type=="InternalIP")].address}`)
	for name, address := range map[string]string{
		"node":      nodeAddress,
		"apiserver": e.run(t, "get", "endpointslices", "-l", "kubernetes.io/service-name=kubernetes", "-o", "jsonpath={.items[0].endpoints[0].addresses[0]}"),
		"service":   e.run(t, "-n", "kube-system", "get", "service", "kube-dns", "-o", "jsonpath={.spec.clusterIP}"),
		"proxy":     e.proxies(t)[0].ip,
		"foreign":   e.pods(t, "e2e-mesh", "app=web")[0].ip,
	} {
		t.Run(name, func(t *testing.T) {
			e.apply(t, ns, file(t, "selectorless.yaml", "$NAME", name, "$ADDRESS", address))
			e.eventually(t, "a Warning Event", func() error {
				return e.hasEvent(t, ns, "service", name, "EndpointRefused")
			})
			s := e.clients[0].call(t, "get", "http://"+name+".e2e-refused.mesh")
			if s.OK != 0 {
				t.Errorf("%s was reached: %+v", address, s)
			}
		})
	}
	e.apply(t, ns, "{apiVersion: v1, kind: Service, metadata: {name: external}, spec: {type: ExternalName, externalName: web.e2e-mesh.svc.cluster.local}}")
	e.eventually(t, "a Warning Event", func() error { return e.hasEvent(t, ns, "service", "external", "ExternalName") })
}

// hasEvent asks as a user would: kubectl describe.
func (e *env) hasEvent(t *testing.T, namespace, kind, name, reason string) error {
	t.Helper()
	out, err := e.try(t, "-n", namespace, "describe", kind, name)
	if err != nil {
		return err
	}
	if !strings.Contains(out, "Warning") || !strings.Contains(out, reason) {
		return fmt.Errorf("kubectl describe %s %s shows no Warning %s: %s", kind, name, reason, last(out, 600))
	}
	return nil
}

func (e *env) proxies(t *testing.T) []pod {
	t.Helper()
	return e.pods(t, meshNamespace, "app.kubernetes.io/component=proxy")
}
