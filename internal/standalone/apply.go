package standalone

import (
	"fmt"
	"net/netip"
	"slices"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/files"
	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/proxyconfig"
	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// applied is what the data plane was given.
type applied struct {
	config  []configv1.Resource
	refused map[configv1.Key][]configv1.Refusal // what it could not use of that
	busy    map[files.Socket]bool               // ports that turned out to be other programs'
}

// apply takes the files' current content into use. If that fails, which is a bug, what was served before is served on.
func (m *Mesh) apply() {
	next, err := m.take(m.source.Snapshot().Resources)
	if err != nil {
		next = *m.state.Load()
		next.Problems = slices.DeleteFunc(slices.Clone(next.Problems), func(p problem.Problem) bool { return p.Reason == problem.InternalError })
		next.Problems = append(next.Problems, problem.Newf(problem.Ref{Kind: "File", Name: m.config.Dir}, problem.InternalError, "what the files said before stays in use: %v", err))
		slices.SortFunc(next.Problems, problem.Problem.Compare)
	}
	m.state.Store(&next)
}

// maxMoves is how often ports are moved away from busy ones before they are given up until the next change.
const maxMoves = 10

func (m *Mesh) take(resources topology.Resources) (s State, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	t, problems := topology.Build(topology.Config{
		DefaultMode:      m.config.DefaultMode,
		AccessDefault:    m.config.Access,
		TrustTargetRefs:  true,
		AllowedEndpoints: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
	}, resources)
	var assigned shadow.Assigned
	for range maxMoves {
		allows := m.config.Loopback
		allows.Busy = m.applied.busy
		assigned = files.Assign(t, allows)
		config, err := m.build(t, assigned)
		if err != nil {
			return State{}, err
		}
		if !m.applied.give(m.proxy, config, assigned) {
			break
		}
	}
	for key, refusals := range m.applied.refused {
		for _, r := range refusals {
			problems = append(problems, problem.Newf(refOf(key), problem.RefusedByProxy, "%s", r.Reason))
		}
	}
	slices.SortFunc(problems, problem.Problem.Compare)
	return State{DNS: m.tcp.Addr().String(), Services: serving(t, assigned, m.applied.refused), Problems: problems}, nil
}

// applier is the data plane.
type applier interface {
	Apply(configv1.Update) []configv1.Refusal
}

// give gives the data plane what changed. It says whether ports turned out to be busy that were not known to be.
func (a *applied) give(to applier, config []configv1.Resource, assigned shadow.Assigned) bool {
	update := configv1.Diff(a.config, config)
	refusals := to.Apply(update)
	a.config = config
	for _, r := range update.Set {
		delete(a.refused, r.Key)
	}
	for _, k := range update.Removed {
		delete(a.refused, k)
	}
	known := len(a.busy)
	binds := map[string]netip.Addr{}
	for u, one := range assigned.Units {
		binds[u.String()] = one.Bind
	}
	for _, r := range refusals {
		a.refused[r.Key] = append(a.refused[r.Key], r)
		if bind := binds[r.Name]; r.BusyPort != 0 && bind.IsValid() {
			a.busy[files.Socket{AddrPort: netip.AddrPortFrom(bind, uint16(r.BusyPort)), UDP: r.BusyUDP}] = true
		}
	}
	return len(a.busy) > known
}

func (m *Mesh) build(t topology.Topology, assigned shadow.Assigned) ([]configv1.Resource, error) {
	config, err := proxyconfig.Build(proxyconfig.Config{Zones: m.config.Zones}, t, assigned)
	if err != nil {
		return nil, err
	}
	// Wherever the files say that pods run: they all call from here.
	t.Callers = slices.Clone(t.Callers)
	for i := range t.Callers {
		t.Callers[i].Node = ""
	}
	mine, err := proxyconfig.Proxies(t, proxyconfig.Own{Proxies: []shadow.Proxy{{Pod: proxyName}}, InSlices: map[string]bool{proxyName: true}})
	if err != nil {
		return nil, err
	}
	config = append(config, mine[proxyName]...)
	slices.SortFunc(config, func(a, b configv1.Resource) int { return a.Compare(b.Key) })
	return config, nil
}
