package route

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxy/balance"
	"github.com/tulle-mesh/tulle/internal/proxy/upstream"
)

// Groups hands out the endpoints of backends; *upstream.Set does.
type Groups interface {
	Group(upstream.Key) *upstream.Group
	Drop(upstream.Key)
}

// Compile makes a Service of the resource called name. What a split has dealt out so far is taken over from old (nil
// if there is none) as long as its backends and weights are the same. The caller calls Release when the Service is out
// of use. An error names what can't be used.
func Compile(name string, s *configv1.Service, old *Service, groups Groups) (*Service, error) {
	out := &Service{Name: name, Namespace: s.GetNamespace(), Short: s.GetName()}
	if s.GetPod() != "" {
		out.Short += "/" + s.GetPod()
	}
	for _, p := range s.GetPorts() {
		port, err := compilePort(out, p)
		if err != nil {
			return nil, fmt.Errorf("port %d: %w", p.GetPort(), err)
		}
		out.Ports = append(out.Ports, port)
	}
	var guard *Guard
	if old != nil {
		guard = old.Guard
	}
	var err error
	if out.Guard, err = newGuard(s, guard); err != nil {
		return nil, err
	}
	out.bind(old, groups)
	return out, nil
}

// Release gives back what the Service holds of groups.
func (s *Service) Release(groups Groups) {
	for _, k := range s.keys {
		groups.Drop(k)
	}
}

func compilePort(s *Service, p *configv1.Port) (*Port, error) {
	out := &Port{
		Service: s, Number: p.GetPort(), Protocol: p.GetProtocol(), TargetPort: p.GetTargetPort(),
		RetryAttempts: int(min(p.GetRetryAttempts(), 100)),
		Timeout:       milliseconds(p.GetTimeoutMs()), IdleTimeout: milliseconds(p.GetIdleTimeoutMs()),
		EncodedSlash: p.GetEncodedSlash(),
	}
	switch p.GetProtocol() {
	case configv1.Protocol_PROTOCOL_HTTP, configv1.Protocol_PROTOCOL_TCP, configv1.Protocol_PROTOCOL_UDP:
	default:
		return nil, fmt.Errorf("protocol %v is unknown", p.GetProtocol())
	}
	if out.Number == 0 || out.Number > 65535 || out.TargetPort > 65535 {
		return nil, fmt.Errorf("not a port number, or target port %d is none", out.TargetPort)
	}
	if s.Port(out.Number, out.UDP()) != nil {
		return nil, errors.New("there are two of it")
	}
	for _, r := range p.GetRoutes() {
		route, err := compileRoute(r)
		if err != nil {
			return nil, err
		}
		out.Routes = append(out.Routes, route)
		out.JudgesPaths = out.JudgesPaths || slices.ContainsFunc(route.matches, func(m match) bool { return m.path != nil })
	}
	return out, nil
}

func compileRoute(r *configv1.Route) (*Route, error) {
	out := &Route{Split: r.GetSplit()}
	for _, m := range r.GetMatches() {
		compiled, err := compileMatch(m)
		if err != nil {
			return nil, fmt.Errorf("match of split %s: %w", r.GetSplit(), err)
		}
		out.matches = append(out.matches, compiled)
	}
	for _, b := range r.GetBackends() {
		if b.GetService() == "" || b.GetPort() == 0 || b.GetPort() > 65535 {
			return nil, fmt.Errorf("backend %q, port %d: no service or port", b.GetService(), b.GetPort())
		}
		out.Backends = append(out.Backends, &Backend{
			Service: b.GetService(), Port: b.GetPort(), Weight: b.GetWeight(), Scheme: b.GetScheme(),
		})
	}
	return out, nil
}

// bind connects what was compiled with what outlives it: endpoints and turns.
func (s *Service) bind(old *Service, groups Groups) {
	for _, p := range s.Ports {
		var before []*Route
		if was := old.Port(p.Number, p.UDP()); was != nil {
			before = slices.Clone(was.Routes)
		}
		for _, r := range p.Routes {
			for _, b := range r.Backends {
				key := upstream.Key{Service: b.Service, Port: b.Port, UDP: p.UDP()}
				b.Endpoints = groups.Group(key)
				s.keys = append(s.keys, key)
			}
			r.turns = r.takeTurns(before)
		}
	}
}

// takeTurns takes over the turns of the route before that is the same, at most once each.
func (r *Route) takeTurns(before []*Route) *balance.Weighted {
	for i, was := range before {
		if was != nil && was.Split == r.Split && slices.EqualFunc(was.Backends, r.Backends, sameShare) {
			before[i] = nil
			return was.turns
		}
	}
	weights := make([]uint32, len(r.Backends))
	for i, b := range r.Backends {
		weights[i] = b.Weight
	}
	return balance.NewWeighted(weights)
}

func sameShare(a, b *Backend) bool {
	return a.Service == b.Service && a.Port == b.Port && a.Weight == b.Weight
}

func milliseconds(ms uint64) time.Duration {
	const most = 1 << 40 // 34 years: as good as none, and far from overflowing
	return time.Duration(min(ms, most)) * time.Millisecond
}

// Zones brings DNS zones into the form that a Table has them in.
func Zones(zones []string) []string {
	var out []string
	for _, z := range zones {
		if z = strings.ToLower(strings.Trim(z, ".")); z != "" {
			out = append(out, z)
		}
	}
	// A zone may end in another: the longer one is meant.
	slices.SortStableFunc(out, func(a, b string) int { return len(b) - len(a) })
	return out
}

// Callers lists callers by address. What is no address can't call and is left out.
func Callers(list []*configv1.Caller) map[netip.Addr]*Caller {
	out := map[netip.Addr]*Caller{}
	for _, c := range list {
		caller := &Caller{
			Namespace: c.GetNamespace(), Pod: c.GetPod(), ServiceAccount: c.GetServiceAccount(), Workload: c.GetWorkload(),
			UID: c.GetUid(),
		}
		if ms := c.GetExpiresMs(); ms != 0 {
			caller.Expires = time.UnixMilli(ms)
		}
		for _, a := range c.GetAddresses() {
			if ip, err := netip.ParseAddr(a); err == nil {
				out[ip.Unmap()] = caller
			}
		}
	}
	return out
}

// PodRanges reads CIDRs. What is none is an error: without it, pods of other nodes would be taken for new ones of this.
func PodRanges(list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range list {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("range of pods: %w", err)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// NodeAddresses lists a node's own addresses.
func NodeAddresses(list []string) map[netip.Addr]bool {
	out := make(map[netip.Addr]bool, len(list))
	for _, text := range list {
		if a, err := netip.ParseAddr(text); err == nil {
			out[a.Unmap()] = true
		}
	}
	return out
}
