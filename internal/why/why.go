// Package why explains what the mesh does with one call: whether access control allows it and by which rule, what every
// TrafficTarget has to do with it, and which route it takes. It decides with the code and the config that the proxies
// have. It is pure: equal input gives an equal Answer.
package why

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/access"
	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
	"github.com/tulle-mesh/tulle/internal/proxyconfig"
	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// Question is one call.
type Question struct {
	From     string // "namespace/serviceaccount" or "namespace/pod"; "-" is nobody
	To       string // "name.namespace", or a mesh name
	Port     uint32 // 0 = the only one
	Protocol string // "http", "tcp" or "udp"; empty = as the port is served
	Method   string // default GET
	Path     string // with or without a query; default /
	Headers  []Header
	// Enforced asks what would be if access control were enforced, whatever the mode is.
	Enforced bool
}

// Header is one field of a request.
type Header struct{ Name, Value string }

// Answer is what happens to the call.
type Answer struct {
	Allow        bool          `json:"allow"`
	Reason       string        `json:"reason,omitempty"` // why not; of the first destination that says no
	Caller       string        `json:"caller"`           // "namespace/serviceaccount"; empty if it has no identity
	Pod          string        `json:"pod,omitempty"`
	Service      string        `json:"service"` // "namespace/name"
	Port         uint32        `json:"port"`
	Protocol     string        `json:"protocol"`
	Request      string        `json:"request,omitempty"` // "GET /path"
	Split        string        `json:"split,omitempty"`   // the TrafficSplit that is taken
	Backends     []Backend     `json:"backends"`
	Destinations []Destination `json:"destinations"`
	WayAround    string        `json:"wayAround"`
	Notes        []string      `json:"notes,omitempty"`
	Hidden       []string      `json:"hidden,omitempty"` // what whoever asked may not read, and the answer leaves out
}

// Backend is a share of the route that is taken.
type Backend struct {
	Service   string     `json:"service"`
	Port      uint32     `json:"port"`
	Percent   float64    `json:"percent"`
	Endpoints []Endpoint `json:"endpoints"`
}

// Endpoint is one that may be chosen.
type Endpoint struct {
	Address  string `json:"address"`
	Pod      string `json:"pod,omitempty"`
	Node     string `json:"node,omitempty"`
	Workload string `json:"workload"`
}

// Destination is what is decided for one workload behind the backends.
type Destination struct {
	Workload string   `json:"workload"`
	Mode     string   `json:"mode"` // off, audit or enforce
	Allow    bool     `json:"allow"`
	Reason   string   `json:"reason,omitempty"` // why no rule allows it; it may be allowed nonetheless by the mode
	Rule     string   `json:"rule,omitempty"`   // what allows it
	Path     string   `json:"path,omitempty"`   // that is forwarded in place of the one that was sent
	Targets  []Target `json:"targets,omitempty"`
}

// ErrQuestion is wrapped by errors about what was asked, as opposed to its answer.
var ErrQuestion = errors.New("the question makes no sense")

func question(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrQuestion, fmt.Sprintf(format, args...))
}

// Mesh is what questions are answered from.
type Mesh struct {
	callers   []topology.Caller
	accounts  map[string]bool // ServiceAccounts that pods run as or that exist
	services  map[string]*route.Service
	endpoints map[string]*configv1.Endpoints
	policies  map[string]*configv1.Policy
	compiled  map[string]*access.Workload
	problems  []problem.Problem
}

// New makes a Mesh of the objects of a cluster or of files.
func New(c topology.Config, r topology.Resources) (*Mesh, error) {
	t, problems := topology.Build(c, r)
	config, err := proxyconfig.Build(proxyconfig.Config{}, t, shadow.Assigned{})
	if err != nil {
		return nil, fmt.Errorf("build config: %w", err)
	}
	m := &Mesh{
		callers: t.Callers, accounts: map[string]bool{}, services: map[string]*route.Service{}, problems: problems,
		endpoints: map[string]*configv1.Endpoints{}, policies: map[string]*configv1.Policy{}, compiled: map[string]*access.Workload{},
	}
	for _, s := range r.ServiceAccounts {
		m.accounts[s.Namespace+"/"+s.Name] = true
	}
	for _, c := range t.Callers {
		m.accounts[c.Namespace+"/"+c.ServiceAccount] = true
	}
	return m, m.take(config)
}

// take compiles the config as a proxy does.
func (m *Mesh) take(config []configv1.Resource) (err error) {
	var compiler access.Compiler
	groups := upstream.NewSet(upstream.Config{})
	for _, r := range config {
		switch x := r.Message.(type) {
		case *configv1.Endpoints:
			m.endpoints[r.Name] = x
		case *configv1.Service:
			if m.services[r.Name], err = route.Compile(r.Name, x, nil, groups); err != nil {
				return fmt.Errorf("service %s: %w", r.Name, err)
			}
		case *configv1.Policy:
			m.policies[r.Name] = x
			if m.compiled[r.Name], err = compiler.Compile(x); err != nil {
				return fmt.Errorf("policy %s: %w", r.Name, err)
			}
		}
	}
	return nil
}

// Ask answers a question.
func (m *Mesh) Ask(q Question) (*Answer, error) { return m.answer(q, true) }

// answer may leave out what every TrafficTarget has to do with the call, which costs far more than the answer itself.
func (m *Mesh) answer(q Question, targets bool) (*Answer, error) {
	port, err := m.port(&q)
	if err != nil {
		return nil, err
	}
	a := &Answer{Service: port.Service.Name, Port: port.Number, Protocol: q.Protocol, WayAround: wayAround}
	caller, err := m.caller(q.From, a)
	if err != nil {
		return nil, err
	}
	r, err := q.request(port)
	if err != nil {
		return nil, err
	}
	if r != nil {
		a.Request = r.Method + " " + r.Path
		if port.JudgesPaths {
			path, ok := access.Canonical(r.Path, r.EncodedSlash)
			if !ok {
				a.Reason = string(access.BadPath)
				return a, nil
			}
			r.Path = path
		}
	}
	taken := routeOf(port, r)
	if taken == nil {
		a.Reason = "no-route"
		return a, nil
	}
	a.Split = taken.Split
	m.backends(a, taken, port)
	m.decide(a, caller, access.Port{Number: port.Number, Protocol: protocolOf(port)}, r, q.Enforced, targets)
	return a, nil
}

// wayAround is what is known about calls that avoid the mesh name.
const wayAround = "open: a call to the pod's address or to the plain Service does not pass the mesh, and is not decided on"

// AroundTo takes what is known of calls past the mesh, by workload, into the answer.
func (a *Answer) AroundTo(known map[string]string) {
	var out []string
	for _, d := range a.Destinations {
		if text := known[d.Workload]; text != "" {
			out = append(out, d.Workload+" is "+text)
		}
	}
	if len(out) > 0 {
		a.WayAround = strings.Join(out, "; ")
	}
}

func routeOf(p *route.Port, r *access.Request) *route.Route {
	if r == nil {
		return p.Default()
	}
	return p.Match(&route.Request{Method: r.Method, Path: r.Path, Host: r.Host, Values: r.Values})
}

// backends lists the shares of a route.
func (m *Mesh) backends(a *Answer, taken *route.Route, port *route.Port) {
	total := 0.0
	for _, b := range taken.Backends {
		total += float64(b.Weight)
	}
	for _, b := range taken.Backends {
		out := Backend{Service: b.Service, Port: b.Port, Endpoints: m.ready(b, port.UDP())}
		if total > 0 {
			out.Percent = 100 * float64(b.Weight) / total
		}
		a.Backends = append(a.Backends, out)
	}
}

func (m *Mesh) ready(b *route.Backend, udp bool) []Endpoint {
	out := []Endpoint{}
	for _, p := range m.endpoints[b.Service].GetPorts() {
		if p.GetPort() != b.Port || p.GetUdp() != udp {
			continue
		}
		for _, e := range p.GetEndpoints() {
			if !e.GetDraining() {
				out = append(out, Endpoint{fmt.Sprintf("%s:%d", e.GetAddress(), e.GetPort()), e.GetPod(), e.GetNode(), e.GetWorkload()})
			}
		}
	}
	return out
}

// decide judges every workload that may be chosen. The call is allowed if all of them allow it.
func (m *Mesh) decide(a *Answer, c access.Caller, p access.Port, r *access.Request, enforced, explain bool) {
	seen := map[string]bool{}
	chosen := false
	a.Allow = true
	for _, b := range a.Backends {
		if b.Percent == 0 {
			continue
		}
		chosen = true
		if len(b.Endpoints) == 0 {
			a.deny("no-endpoint")
		}
		for _, e := range b.Endpoints {
			if !seen[e.Workload] {
				seen[e.Workload] = true
				d := m.destination(e.Workload, c, p, r, enforced)
				if policy := m.policies[e.Workload]; policy != nil && explain {
					d.Targets = targets(policy, c, p, r)
				}
				a.Destinations = append(a.Destinations, d)
				if !d.Allow {
					a.deny(d.Reason)
				}
			}
		}
	}
	if !chosen {
		a.deny("no-backend")
	}
	slices.SortFunc(a.Destinations, func(x, y Destination) int { return cmp.Compare(x.Workload, y.Workload) })
	for _, problem := range m.problems {
		if m.concerns(a, problem) {
			a.Notes = append(a.Notes, problem.String())
		}
	}
}

func (a *Answer) deny(reason string) {
	a.Allow, a.Reason = false, cmp.Or(a.Reason, reason)
}

func (m *Mesh) destination(name string, c access.Caller, p access.Port, r *access.Request, enforced bool) Destination {
	w := m.compiled[name]
	d := Destination{Workload: name, Mode: "off"}
	if w == nil {
		d.Allow = true
		return d
	}
	v := access.Decide(c, w, p, r)
	d.Mode = "enforce"
	if w.Mode() == access.Audit {
		d.Mode = "audit"
	}
	d.Allow, d.Reason, d.Path = v.Allow, string(v.Reason), v.Path
	if enforced {
		d.Allow = v.Reason == ""
	}
	if v.Rule != nil {
		d.Rule = strings.TrimSpace(fmt.Sprintf("TrafficTarget %s, %s %s %s", v.Rule.Target, v.Rule.Kind, v.Rule.Route, v.Rule.Match))
	}
	return d
}

// concerns says whether a problem is about something that the answer names: its TrafficTargets, its split, its services.
func (m *Mesh) concerns(a *Answer, p problem.Problem) bool {
	name := p.Object.Namespace + "/" + p.Object.Name
	switch p.Object.Kind {
	case "TrafficTarget":
		return slices.ContainsFunc(a.Destinations, func(d Destination) bool {
			namespace, _, _ := strings.Cut(d.Workload, "/")
			return namespace == p.Object.Namespace
		})
	case "TrafficSplit":
		return name == a.Split
	case "Service":
		return name == a.Service || slices.ContainsFunc(a.Backends, func(b Backend) bool { return b.Service == name })
	}
	return false
}
