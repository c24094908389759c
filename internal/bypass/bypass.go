// Package bypass says whether protected workloads can be called past the mesh, and which NetworkPolicies close that way.
// It is pure: equal input gives an equal Result, in any input order.
//
// A NetworkPolicy selects pods by labels, a workload is a ServiceAccount: the two are brought together by the selectors of
// the Deployments, StatefulSets and DaemonSets that own the pods, where these match no others.
package bypass

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// Config is the administrator's part of the input.
type Config struct {
	Namespace string // the mesh's
	Default   Mode   // of namespaces that say nothing; default report
	// AllowFrom may call past the mesh everywhere; see ParsePeer.
	AllowFrom []Peer
	// AntiSpoofing says that the network lets no pod send with another's address. Nothing in Kubernetes tells.
	AntiSpoofing bool
	// Prober are the addresses from which it is tried whether a way is closed. Where a policy admits them, it is not.
	Prober []netip.Addr
}

// Input are the objects. They are read only.
type Input struct {
	Exposed         []topology.Exposed
	Enforced        func(topology.Name) bool // whether a workload is, also without pods
	Pods            []*corev1.Pod
	Namespaces      []*corev1.Namespace
	ServiceAccounts []*corev1.ServiceAccount
	Owners          []*Owner
	Policies        []*networkingv1.NetworkPolicy
}

// Owner is what makes pods and has a selector: a Deployment, a StatefulSet or a DaemonSet.
type Owner struct {
	Kind, Namespace, Name string
	Selector              *metav1.LabelSelector
}

// Result is what is, and what is to be written.
type Result struct {
	Workloads []Workload                    // by name
	Wanted    []*networkingv1.NetworkPolicy // by namespace, then name
	Problems  []problem.Problem             // sorted
}

// Workload is a protected workload as NetworkPolicies leave it.
type Workload struct {
	Name  topology.Name
	Mode  Mode
	Ports []Port // that Services lead to
	// Open says why NetworkPolicies do not close the way around; empty if they do.
	Open []string
	// Except are those that they admit besides the proxies.
	Except []string
	// Nodes are those that pods of it run on.
	Nodes []string
	// Targets are what to dial to see whether it is so: one pod for each node.
	Targets []Target
}

// Port is a port of a pod.
type Port struct {
	Number int32
	UDP    bool
}

// Target is a port that nobody but the proxies should reach.
type Target struct {
	Pod     topology.Name
	Node    string
	Address netip.AddrPort
}

// Build looks at every enforced workload behind a Service.
func Build(c Config, in Input) Result {
	b := newBuilder(c, in)
	for start := 0; start < len(in.Exposed); {
		end := start
		for end < len(in.Exposed) && in.Exposed[end].Workload == in.Exposed[start].Workload {
			end++
		}
		b.workload(in.Exposed[start].Workload, in.Exposed[start:end])
		start = end
	}
	b.keepEmpty()
	slices.SortFunc(b.out.Wanted, comparePolicies)
	slices.SortFunc(b.out.Problems, problem.Problem.Compare)
	b.out.Problems = slices.Compact(b.out.Problems)
	return b.out
}

func comparePolicies(a, b *networkingv1.NetworkPolicy) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// builder has the objects by what they are looked up by.
type builder struct {
	Config
	in       Input
	modes    map[string]Mode   // by namespace, of those that say one
	allowed  map[string][]Peer // by namespace
	accounts map[topology.Name]*corev1.ServiceAccount
	byName   map[topology.Name]*corev1.Pod // without those that ended
	owners   map[string]*selectors[*owner]
	all      []*owner
	policies map[string]*selectors[*networkingv1.NetworkPolicy]
	forgers  forgers
	out      Result
}

// owner is an Owner with the pods that its selector matches, whether it owns them or not.
type owner struct {
	*Owner
	pods []*corev1.Pod
}

func newBuilder(c Config, in Input) *builder {
	b := &builder{
		Config: c, in: in, modes: map[string]Mode{}, allowed: map[string][]Peer{}, accounts: map[topology.Name]*corev1.ServiceAccount{},
		byName: make(map[topology.Name]*corev1.Pod, len(in.Pods)), owners: map[string]*selectors[*owner]{}, policies: map[string]*selectors[*networkingv1.NetworkPolicy]{},
	}
	b.Default = cmp.Or(b.Default, Report)
	for _, n := range in.Namespaces {
		b.addNamespace(n)
	}
	for _, s := range in.ServiceAccounts {
		b.accounts[topology.Name{Namespace: s.Namespace, Name: s.Name}] = s
	}
	for _, p := range in.Policies {
		if forIngress(p) {
			of(b.policies, p.Namespace).add(&p.Spec.PodSelector, p)
		}
	}
	for _, o := range in.Owners {
		// One that selects everything, or nothing, is not what anybody means.
		if s := o.Selector; s != nil && len(s.MatchLabels)+len(s.MatchExpressions) > 0 {
			if x := (&owner{Owner: o}); of(b.owners, o.Namespace).add(s, x) {
				b.all = append(b.all, x)
			}
		}
	}
	for _, p := range in.Pods {
		b.addPod(p)
	}
	return b
}

func of[T any](m map[string]*selectors[T], namespace string) *selectors[T] {
	if m[namespace] == nil {
		m[namespace] = &selectors[T]{}
	}
	return m[namespace]
}

func (b *builder) addPod(p *corev1.Pod) {
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return
	}
	b.byName[nameOf(p)] = p
	b.forgers.add(b.Namespace, p)
	if owners := b.owners[p.Namespace]; owners != nil {
		for _, o := range owners.matching(p.Labels) {
			o.pods = append(o.pods, p)
		}
	}
}

func nameOf(p *corev1.Pod) topology.Name { return topology.Name{Namespace: p.Namespace, Name: p.Name} }

func workloadOf(p *corev1.Pod) topology.Name {
	return topology.Name{Namespace: p.Namespace, Name: cmp.Or(p.Spec.ServiceAccountName, "default")}
}

// workload looks at one. What is exposed is sorted by pod.
func (b *builder) workload(name topology.Name, exposed []topology.Exposed) {
	w := Workload{Name: name, Mode: b.mode(name.Namespace)}
	served := map[topology.Name][]Port{}
	ports := map[Port]bool{}
	open := reasons{}
	for _, e := range exposed {
		pod := b.byName[e.Pod]
		p := Port{e.Port, e.UDP}
		ports[p] = true
		switch {
		case pod == nil:
			open.add("endpoints are no pods")
		case pod.Spec.HostNetwork:
			open.add("%s is on its node's network, where NetworkPolicies do not hold", pod.Name)
		default:
			served[e.Pod] = append(served[e.Pod], p)
		}
	}
	w.Ports = slices.SortedFunc(maps.Keys(ports), comparePorts)
	if len(served) > 0 {
		b.wanted(&w, served, open)
		b.judge(&w, served, open)
	}
	w.Open = open.list()
	b.out.Workloads = append(b.out.Workloads, w)
}

func comparePorts(a, b Port) int {
	if a.UDP != b.UDP {
		if a.UDP {
			return 1
		}
		return -1
	}
	return cmp.Compare(a.Number, b.Number)
}
