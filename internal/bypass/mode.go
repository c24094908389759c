package bypass

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// Mode says what is done about calls past the mesh.
type Mode string

// The modes.
const (
	Report Mode = "report" // it is said whether they are possible
	Close  Mode = "close"  // NetworkPolicies are written against them
)

const (
	// Label on a Namespace says its mode.
	Label = "tulle.dev/bypass"
	// AllowAnnotation on a Namespace or a ServiceAccount names those that may call past the mesh: Peers, separated by
	// blanks.
	AllowAnnotation = "tulle.dev/allow-direct-from"
	// namespaceName is the label that the API server keeps on every Namespace.
	namespaceName = corev1.LabelMetadataName
)

// Peer is somebody who may call past the mesh.
type Peer struct {
	Namespace string
	Labels    map[string]string // of its pods; none = all pods of the namespace
	CIDR      netip.Prefix      // if valid, the rest is empty
}

// ParsePeer reads "monitoring", "monitoring/app=prometheus" or "10.1.0.0/16". Several labels are separated by commas, or by
// "+" where commas separate peers.
func ParsePeer(text string) (Peer, error) {
	if prefix, err := netip.ParsePrefix(text); err == nil {
		return Peer{CIDR: prefix.Masked()}, nil
	}
	if addr, err := netip.ParseAddr(text); err == nil {
		return Peer{CIDR: netip.PrefixFrom(addr, addr.BitLen())}, nil
	}
	namespace, selector, limited := strings.Cut(text, "/")
	if errs := validation.IsDNS1123Label(namespace); errs != nil {
		return Peer{}, fmt.Errorf("%q is neither a namespace, nor namespace/label=value, nor a CIDR", text)
	}
	p := Peer{Namespace: namespace}
	if !limited {
		return p, nil
	}
	set, err := labels.ConvertSelectorToLabelsMap(strings.ReplaceAll(selector, "+", ","))
	if err != nil {
		return Peer{}, fmt.Errorf("%q: %w", text, err)
	}
	if p.Labels = set; len(set) == 0 {
		return Peer{}, fmt.Errorf("%q has no label after the slash", text)
	}
	return p, nil
}

// ParsePeers reads peers that are separated by blanks. What is wrong is left out and in the error.
func ParsePeers(text string) ([]Peer, error) {
	var out []Peer
	var errs []error
	for word := range strings.FieldsSeq(text) {
		p, err := ParsePeer(word)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, p)
	}
	return out, errors.Join(errs...)
}

// peer is how a NetworkPolicy says it.
func (p Peer) peer() networkingv1.NetworkPolicyPeer {
	if p.CIDR.IsValid() {
		return networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: p.CIDR.String()}}
	}
	out := networkingv1.NetworkPolicyPeer{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{namespaceName: p.Namespace}}}
	if len(p.Labels) > 0 {
		out.PodSelector = &metav1.LabelSelector{MatchLabels: p.Labels}
	}
	return out
}

func (b *builder) addNamespace(n *corev1.Namespace) {
	ref := problem.Ref{APIVersion: "v1", Kind: "Namespace", Name: n.Name, UID: string(n.UID)}
	switch value, ok := n.Labels[Label]; {
	case !ok:
	case Mode(value) == Report || Mode(value) == Close:
		b.modes[n.Name] = Mode(value)
	default:
		b.report(ref, problem.InvalidBypass, "the label %s is %s, which is neither report nor close; it is ignored", Label, problem.Quote(value))
	}
	b.allowed[n.Name] = b.peers(ref, n.Annotations)
}

func (b *builder) mode(namespace string) Mode {
	if m, ok := b.modes[namespace]; ok {
		return m
	}
	return b.Default
}

// peers reads the annotation of an object.
func (b *builder) peers(ref problem.Ref, annotations map[string]string) []Peer {
	peers, err := ParsePeers(annotations[AllowAnnotation])
	if err != nil {
		b.report(ref, problem.InvalidBypass, "the annotation %s: %s; what is wrong in it admits nobody", AllowAnnotation, problem.Quote(err.Error()))
	}
	return peers
}

// admitted are all that may call a workload past the mesh.
func (b *builder) admitted(w topology.Name) []Peer {
	out := append(append([]Peer{}, b.AllowFrom...), b.allowed[w.Namespace]...)
	if s := b.accounts[w]; s != nil {
		out = append(out, b.peers(accountRef(s), s.Annotations)...)
	}
	return out
}

func accountRef(s *corev1.ServiceAccount) problem.Ref {
	return problem.Ref{APIVersion: "v1", Kind: "ServiceAccount", Namespace: s.Namespace, Name: s.Name, UID: string(s.UID)}
}

func (b *builder) report(ref problem.Ref, reason problem.Reason, format string, args ...any) {
	b.out.Problems = append(b.out.Problems, problem.Newf(ref, reason, format, args...))
}
