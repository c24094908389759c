package check

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"

	"github.com/tulle-mesh/tulle/internal/fakeapi"
	"github.com/tulle-mesh/tulle/internal/firsthop"
	"github.com/tulle-mesh/tulle/internal/install"
)

// meshDNS is a DNS server on loopback that answers as the proxies do.
type meshDNS struct {
	pod    func(asked int64) string // who answers the so-manieth question; default p-1
	client string                   // what it says it sees; default the truth
	asked  atomic.Int64
	port   int
}

func serveDNS(t *testing.T) *meshDNS {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	m := &meshDNS{pod: func(int64) string { return "p-1" }, port: int(netip.MustParseAddrPort(l.Addr().String()).Port())}
	for _, s := range []*dns.Server{{Listener: l, Handler: m}, {PacketConn: p, Handler: m}} {
		started, ended := make(chan struct{}), make(chan error, 1)
		s.NotifyStartedFunc = func() { close(started) }
		go func() { ended <- s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() {
			if err := errors.Join(s.Shutdown(), <-ended); err != nil {
				t.Error(err)
			}
		})
	}
	return m
}

// ServeDNS implements dns.Handler.
func (m *meshDNS) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	client := netip.MustParseAddrPort(w.RemoteAddr().String()).Addr()
	if m.client != "" {
		client = netip.MustParseAddr(m.client)
	}
	a := new(dns.Msg).SetReply(r)
	a.Answer = []dns.RR{&dns.TXT{
		Hdr: dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: firsthop.Texts(m.pod(m.asked.Add(1)), client),
	}}
	w.WriteMsg(a) //nolint:errcheck // the asker sees it
}

// service is the one that leads to it.
func (m *meshDNS) service() string {
	return fmt.Sprintf(`{apiVersion: v1, kind: Service, metadata: {name: tulle-first-hop, namespace: tulle-system}, spec: {clusterIPs: [127.0.0.1], ports: [{name: dns, port: %d, protocol: UDP}]}}`, m.port)
}

// inPods answers for the ports of pods: the metrics as given, and the admin ports as they are.
func inPods(metrics string) func(context.Context, string, string, int, string) ([]byte, error) {
	return func(ctx context.Context, namespace, pod string, port int, path string) ([]byte, error) {
		if namespace != "tulle-system" || !strings.Contains("p-1 p-2 c-1 c-2", pod) {
			return nil, fmt.Errorf("no pod %s/%s", namespace, pod)
		}
		switch {
		case port == 15020 && path == "/metrics":
			return []byte("# TYPE tulle_proxy_requests_total counter\n" + metrics + "\n" + certificatesOf(3, 3, 0)), nil
		case port == 15000 && strings.HasPrefix(path, "/observed?"):
			return []byte(`{"edges": []}`), nil
		case port == 15000:
			w := httptest.NewRecorder()
			firsthop.Handler(pod).ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, path, nil))
			if w.Code != http.StatusOK {
				return nil, errors.New(w.Body.String())
			}
			return w.Body.Bytes(), nil
		}
		return nil, fmt.Errorf("nobody listens on %d%s", port, path)
	}
}

// otherNode has a proxy that answers although it isn't ready any more.
const otherNode = `
{apiVersion: v1, kind: Pod, metadata: {name: p-2, namespace: tulle-system, labels: {app.kubernetes.io/name: tulle, app.kubernetes.io/component: proxy}}, spec: {nodeName: n2}, status: {phase: Running, conditions: [{type: Ready, status: "False"}]}}
`

// The whole way: pods are found, made to ask a real server, and their answers judged.
func TestFirstHop(t *testing.T) {
	ok := []string{"ok: calls from 1 of 1 nodes end at the proxy of their own node (48 of 48 calls)", "ok: the mesh sees callers' own addresses (called from 1 nodes: n1)"}
	tests := map[string]struct {
		objects string
		mesh    func(*meshDNS)
		checker func(*Checker)
		api     func(*fakeapi.Server)
		want    []string
	}{
		"all is well":           {want: ok},
		"before the first call": {checker: func(c *Checker) { c.Cluster.Ask = inPods("") }, want: ok},
		"strangers":             {checker: func(c *Checker) { c.Cluster.Ask = inPods(`tulle_proxy_requests_total{source_workload="unknown"} 8`) }, want: append(ok[:2:2], "note: 8 of 8 calls so far came from none")},
		"masqueraded":           {mesh: func(m *meshDNS) { m.client = "10.9.9.9" }, want: []string{ok[0], "failed: the mesh doesn't see who calls: 127.0.0.1 on n1 is seen as 10.9.9.9"}},
		"another node answers":  {objects: otherNode, mesh: func(m *meshDNS) { m.pod = func(int64) string { return "p-2" } }, want: []string{"failed: calls leave their node: from 1 of 1 nodes (n1), 48 of 48 calls", ok[1]}},
		"until it is asked again": {objects: otherNode, mesh: func(m *meshDNS) {
			m.pod = func(asked int64) string { return map[bool]string{true: "p-2", false: "p-1"}[asked <= 48] }
		}, want: ok},
		"nobody answers": {
			objects: `{apiVersion: v1, kind: Service, metadata: {name: tulle-first-hop, namespace: tulle-system}, spec: {clusterIPs: [127.0.0.1], ports: [{name: dns, port: 1}]}}`,
			want:    []string{"failed: controller c-1 on n1 calls the proxies at 127.0.0.1:1/udp, 127.0.0.1:1/tcp and gets no answer", "failed: controller c-2", "note: whether calls stay on their node isn't known of 1 of 1 nodes: n1", "note: whether the mesh sees"},
		},
		"an older mesh": {api: func(s *fakeapi.Server) { s.Remove("services", "tulle-system", "tulle-first-hop") }, want: []string{"note: there is no Service tulle-first-hop"}},
		"no ports can be forwarded": {
			checker: func(c *Checker) {
				c.Cluster.Ask = func(context.Context, string, string, int, string) ([]byte, error) {
					return nil, errors.New("forbidden")
				}
			},
			want: []string{"note: could not have 3 pods call the proxies (c-1, c-2, p-1): forbidden", "failed: forbidden"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c, s, m := newMesh(t, running, room, tt.objects)
			putStatus(t, s, healthy())
			if tt.mesh != nil {
				tt.mesh(m)
			}
			if tt.checker != nil {
				tt.checker(c)
			}
			if tt.api != nil {
				tt.api(s)
			}
			r := c.Installed(t.Context(), install.Settings{"zones": "mesh", "cluster-domain": "cluster.local", "dns-mode": "manage"})
			var got []string
			for _, f := range r.Findings {
				if f.Check == "first-hop" {
					got = append(got, fmt.Sprintf("%s: %s", f.Level, f.Message))
				}
			}
			if !slices.EqualFunc(got, tt.want, strings.HasPrefix) {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}
