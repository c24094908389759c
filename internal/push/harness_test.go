package push

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/identity"
)

const serverName = "tulle-controller.tulle-system.svc"

// pods is an Authenticator over a fixed set of proxy pods: the token of a pod is "token-" and its name.
type pods struct {
	mu   sync.Mutex
	gone map[string]chan struct{} // by UID
	down bool

	judged atomic.Int64
}

func (p *pods) Authenticate(_ context.Context, token string) (Peer, error) {
	p.judged.Add(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		return Peer{}, errors.New("the API server does not answer")
	}
	var pod string
	if _, err := fmt.Sscanf(token, "token-%s", &pod); err != nil {
		return Peer{}, fmt.Errorf("%w: not a proxy's token", ErrDenied)
	}
	return Peer{Namespace: "tulle-system", Pod: pod, UID: "uid-" + pod, Node: "node-" + pod}, nil
}

func (p *pods) Gone(_ context.Context, peer Peer) <-chan struct{} { return p.channel(peer.UID) }

func (p *pods) channel(uid string) chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone == nil {
		p.gone = map[string]chan struct{}{}
	}
	if p.gone[uid] == nil {
		p.gone[uid] = make(chan struct{})
	}
	return p.gone[uid]
}

func (p *pods) delete(pod string) { close(p.channel("uid-" + pod)) }

// replica is a Server that listens.
type replica struct {
	*Server
	addr string
	pods *pods
	stop func()
}

func newCA(t testing.TB) *identity.CA {
	t.Helper()
	ca, err := identity.NewCA("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// serve starts a Server on loopback; it is stopped when the test ends.
func serve(t testing.TB, ca *identity.CA, edit ...func(*ServerConfig)) *replica {
	t.Helper()
	pods := &pods{}
	config := ServerConfig{
		Certificate: identity.NewServing(ca, serverName).GetCertificate, Authenticator: pods,
		Log: slog.New(slog.DiscardHandler),
	}
	for _, e := range edit {
		e(&config)
	}
	return start(t, NewServer(config), "127.0.0.1:0", pods)
}

// start lets a Server listen.
func start(t testing.TB, s *Server, addr string, pods *pods) *replica {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	r := &replica{Server: s, addr: l.Addr().String(), pods: pods}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Serve(ctx, l) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// inUse is an Applier that remembers what it has in use.
type inUse struct {
	mu      sync.Mutex
	m       map[configv1.Key]string // versions
	updates []configv1.Update
	refuse  map[configv1.Key]configv1.Refusal
	applied chan struct{} // capacity one
}

func newInUse() *inUse {
	return &inUse{
		m: map[configv1.Key]string{}, refuse: map[configv1.Key]configv1.Refusal{}, applied: make(chan struct{}, 1),
	}
}

func (a *inUse) Apply(u configv1.Update) []configv1.Refusal {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.updates = append(a.updates, u)
	var refused []configv1.Refusal
	for _, r := range u.Set {
		if ref, ok := a.refuse[r.Key]; ok {
			ref.Key, ref.Version = r.Key, r.Version
			refused = append(refused, ref)
			continue
		}
		a.m[r.Key] = r.Version
	}
	for _, key := range u.Removed {
		delete(a.m, key)
	}
	select {
	case a.applied <- struct{}{}:
	default:
	}
	return refused
}

func (a *inUse) versions() map[configv1.Key]string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.m)
}

// history returns the updates since the last call.
func (a *inUse) history() []configv1.Update {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := a.updates
	a.updates = nil
	return h
}

func (a *inUse) setRefuse(r configv1.Refusal, on bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if on {
		a.refuse[r.Key] = r
	} else {
		delete(a.refuse, r.Key)
	}
}

// node is a running Client of one proxy pod.
type node struct {
	*Client
	*inUse
	config ClientConfig
	stop   func()
}

// run starts a Client of the pod; it is stopped when the test ends.
func run(t testing.TB, ca *identity.CA, addr, pod string, edit ...func(*ClientConfig)) *node {
	t.Helper()
	dir := t.TempDir()
	n := &node{inUse: newInUse()}
	n.config = ClientConfig{
		Addr: addr, ServerName: serverName, Applier: n.inUse, Log: slog.New(slog.DiscardHandler),
		CAFile: filepath.Join(dir, "ca.crt"), TokenFile: filepath.Join(dir, "token"),
	}
	writeFile(t, n.config.CAFile, string(ca.CertPEM()))
	writeFile(t, n.config.TokenFile, "token-"+pod+"\n")
	for _, e := range edit {
		e(&n.config)
	}
	n.start(t)
	return n
}

func (n *node) start(t testing.TB) {
	n.Client = NewClient(n.config)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func(c *Client) { done <- c.Run(ctx) }(n.Client)
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(n.stop)
}

func writeFile(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// eventually waits until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("timed out: %s", what)
		}
	}
}

func wait(t testing.TB, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(20 * time.Second):
		t.Fatalf("timed out: %s", what)
	}
}

func resource(t testing.TB, name string, m proto.Message) configv1.Resource {
	t.Helper()
	r, err := configv1.NewResource(name, m)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// config makes n services with endpoints; rev makes it differ.
func config(t testing.TB, n int, rev uint32) []configv1.Resource {
	t.Helper()
	out := []configv1.Resource{resource(t, "mesh", &configv1.Mesh{Zones: []string{"mesh"}})}
	for i := range n {
		name := fmt.Sprintf("web-%d", i)
		out = append(out, resource(t, "shop/"+name, endpoints(name, 8000+rev)), resource(t, "shop/"+name, service(name)))
	}
	return out
}

func service(name string) *configv1.Service {
	return &configv1.Service{
		Namespace: "shop", Name: name, Addresses: []string{"10.96.0.10"},
		Ports: []*configv1.Port{{
			Port: 80, Name: "http", Protocol: configv1.Protocol_PROTOCOL_HTTP, TargetPort: 5000,
			Routes: []*configv1.Route{{Backends: []*configv1.Backend{{Service: "shop/" + name, Port: 80, Weight: 1}}}},
		}},
	}
}

func endpoints(name string, port uint32) *configv1.Endpoints {
	ep := &configv1.EndpointPort{Port: 80}
	for i := range 4 {
		ep.Endpoints = append(ep.Endpoints, &configv1.Endpoint{
			Address: fmt.Sprintf("10.1.0.%d", i), Port: port, Node: "node-1", Pod: fmt.Sprintf("%s-%d", name, i),
		})
	}
	return &configv1.Endpoints{Namespace: "shop", Name: name, Ports: []*configv1.EndpointPort{ep}}
}

func proxyFor(t testing.TB, pod string, inSlices bool) []configv1.Resource {
	return []configv1.Resource{resource(t, pod, &configv1.Proxy{Node: "node-" + pod, InSlices: inSlices})}
}

// want returns the versions that a proxy has in use if it has all of these.
func want(resources ...[]configv1.Resource) map[configv1.Key]string {
	m := map[configv1.Key]string{}
	for _, list := range resources {
		for _, r := range list {
			m[r.Key] = r.Version
		}
	}
	return m
}

func has(n *node, resources ...[]configv1.Resource) func() bool {
	w := want(resources...)
	return func() bool { return maps.Equal(n.inUse.versions(), w) }
}

// upToDate says whether the pod is connected and has confirmed the current config.
func (r *replica) upToDate(pod string) func() bool {
	return func() bool {
		for _, c := range r.Connections() {
			if c.Peer.Pod == pod && c.Acked == c.Version {
				return true
			}
		}
		return false
	}
}
