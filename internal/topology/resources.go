package topology

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/smi"
)

// Resources are the objects that a Topology is built from. They are read only: the lists may share objects with an
// informer's cache. Sources keep only the fields that are used here.
type Resources struct {
	Services        []*corev1.Service
	EndpointSlices  []*discoveryv1.EndpointSlice
	Pods            []*corev1.Pod
	Nodes           []*corev1.Node
	Namespaces      []*corev1.Namespace
	ServiceAccounts []*corev1.ServiceAccount
	SMI             smi.Objects
	// Undecodable are the Problems of SMI objects that could not be decoded.
	Undecodable []problem.Problem
}

// Config is the administrator's part of the input.
type Config struct {
	WatchNamespaces  []string // empty = all
	IgnoreNamespaces []string
	MeshNamespace    string         // always ignored
	DefaultMode      Protocol       // of TCP ports that say nothing; default HTTP
	AllowedEndpoints []netip.Prefix // exceptions from the refused endpoint ranges
	PodCIDRs         []netip.Prefix // besides the nodes' podCIDRs
	ServiceCIDRs     []netip.Prefix
	ForeignPods      bool // allow endpoints that are pods of another namespace
	// AccessDefault is the mode of namespaces that say nothing, AccessMinimum what none can fall below; default off.
	AccessDefault, AccessMinimum AccessMode
	// TrustTargetRefs takes an endpoint's word for which pod it is if the pod has no address: in files written by hand,
	// many pods are on one address.
	TrustTargetRefs bool
}
