package topology

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/smi"
)

// AccessMode says what becomes of calls that no TrafficTarget allows. The zero value is off.
type AccessMode string

// The modes, from the weakest to the strongest.
const (
	AccessOff     AccessMode = "off"     // all calls are allowed
	AccessAudit   AccessMode = "audit"   // they pass, and are counted
	AccessEnforce AccessMode = "enforce" // they are refused
)

// AccessLabel on a Namespace sets its mode, on a ServiceAccount raises it.
const AccessLabel = prefix + "access"

func (m AccessMode) rank() int {
	return slices.Index([]AccessMode{AccessOff, AccessAudit, AccessEnforce}, m)
}

// stronger returns the stronger of two modes.
func (m AccessMode) stronger(o AccessMode) AccessMode {
	if o.rank() > m.rank() {
		return o
	}
	return m
}

// Workload is a destination that is protected.
type Workload struct {
	Name   Name       // namespace and ServiceAccount; see Endpoint
	Mode   AccessMode // audit or enforce
	Grants []Grant    // by the TrafficTarget's name
}

// Grant is what one TrafficTarget allows.
type Grant struct {
	Target  Name
	Sources []smi.Identity
	Port    int32 // the only one; 0 = no limit
	Rules   []Rule
}

// Rule is one rule of a TrafficTarget.
type Rule struct {
	Kind    string // HTTPRouteGroup, TCPRoute or UDPRoute
	Name    string
	Broken  bool                // it fits nothing, and still counts as a rule of its kind
	Ports   []int32             // of TCPRoutes and UDPRoutes; empty = all
	Group   *smi.HTTPRouteGroup // of HTTPRouteGroups
	Matches []int               // indices into the group's; empty = all
}

// accessModes knows the mode of every workload.
type accessModes struct {
	fallback, minimum AccessMode
	namespaces        map[string]AccessMode // by label
	accounts          map[Name]AccessMode   // by label
}

func (b *builder) newAccess() *accessModes {
	a := &accessModes{
		fallback: cmp.Or(b.config.AccessDefault, AccessOff), minimum: cmp.Or(b.config.AccessMinimum, AccessOff),
		namespaces: map[string]AccessMode{}, accounts: map[Name]AccessMode{},
	}
	for _, n := range b.resources.Namespaces {
		ref := problem.Ref{APIVersion: "v1", Kind: "Namespace", Name: n.Name, UID: string(n.UID)}
		if m := b.label(ref, n.Name, n.Labels); m != "" {
			a.namespaces[n.Name] = m
			if a.minimum.rank() > m.rank() {
				b.report(ref, problem.InvalidAccessMode, "the label %s is %s, which is less than the mesh's minimum; the mode is %s", AccessLabel, m, a.minimum)
			}
		}
	}
	for _, s := range b.resources.ServiceAccounts {
		ref := problem.Ref{APIVersion: "v1", Kind: "ServiceAccount", Namespace: s.Namespace, Name: s.Name, UID: string(s.UID)}
		name := Name{s.Namespace, s.Name}
		if m := b.label(ref, s.Namespace, s.Labels); m != "" {
			if was := a.of(name); was.rank() > m.rank() {
				b.report(ref, problem.InvalidAccessMode, "the label %s is %s, which is less than the namespace's mode; the mode is %s", AccessLabel, m, was)
			}
			a.accounts[name] = m
		}
	}
	return a
}

// Access returns the mode of every workload, also of those without an endpoint.
func Access(c Config, r Resources) func(Name) AccessMode {
	b := &builder{config: c, namespaces: newNamespaces(c), resources: r}
	modes := b.newAccess()
	return func(n Name) AccessMode {
		if !b.namespaces.meshed(n.Namespace) {
			return AccessOff
		}
		return modes.of(n)
	}
}

// label reads the mode of an object; empty if it says none.
func (b *builder) label(ref problem.Ref, namespace string, labels map[string]string) AccessMode {
	value, ok := labels[AccessLabel]
	if !ok || !b.namespaces.meshed(namespace) {
		return ""
	}
	m := AccessMode(value)
	if m.rank() < 0 {
		b.report(ref, problem.InvalidAccessMode, "the label %s is %s, which is none of off, audit and enforce; it is ignored", AccessLabel, problem.Quote(value))
		return ""
	}
	return m
}

// off says that nothing is protected.
func (a *accessModes) off() bool {
	return len(a.namespaces) == 0 && len(a.accounts) == 0 && a.fallback == AccessOff && a.minimum == AccessOff
}

// of is the mode of a workload.
func (a *accessModes) of(w Name) AccessMode {
	if a.off() {
		return AccessOff
	}
	m := cmp.Or(a.namespaces[w.Namespace], a.fallback).stronger(a.minimum)
	if own := a.accounts[w]; own != "" {
		m = m.stronger(own)
	}
	return m
}

func workloadName(p *corev1.Pod) Name {
	return Name{p.Namespace, cmp.Or(p.Spec.ServiceAccountName, "default")}
}

// reportExternal says of a Service that what stands behind it is no pod, and what follows.
func (b *builder) reportExternal(svc *corev1.Service, example, account string) {
	who := "with the identity of the ServiceAccount " + problem.Quote(account)
	if account == "" {
		who = "and nobody can be allowed to call them: name an identity for them by the annotation " + prefix + "service-account"
	}
	b.report(serviceRef(svc), problem.ExternalDestination, "endpoints such as %s are no pods: access to them is decided by the caller's proxy alone, %s", problem.Quote(example), who)
}

// nodes lists what callers' addresses are compared with.
func (b *builder) nodes() []Node {
	out := make([]Node, 0, len(b.resources.Nodes))
	for _, n := range b.resources.Nodes {
		node := Node{Name: n.Name, Zone: n.Labels[corev1.LabelTopologyZone]}
		for _, text := range append([]string{n.Spec.PodCIDR}, n.Spec.PodCIDRs...) {
			if p, err := netip.ParsePrefix(text); err == nil && !slices.Contains(node.PodRanges, p) {
				node.PodRanges = append(node.PodRanges, p)
			}
		}
		for _, a := range n.Status.Addresses {
			if addr, ok := parseAddr(a.Address); ok {
				node.Addresses = append(node.Addresses, addr)
			}
		}
		slices.SortFunc(node.PodRanges, netip.Prefix.Compare)
		slices.SortFunc(node.Addresses, netip.Addr.Compare)
		node.Addresses = slices.Compact(node.Addresses)
		out = append(out, node)
	}
	slices.SortFunc(out, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
