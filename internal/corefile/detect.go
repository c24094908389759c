package corefile

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Kind is the sort of cluster DNS that a Target belongs to.
type Kind string

// The kinds. CloudDNS can't be changed from within a cluster.
const (
	Corefile  Kind = "corefile"
	Custom    Kind = "coredns-custom"
	NodeCache Kind = "node-cache"
	KubeDNS   Kind = "kube-dns"
	OpenShift Kind = "openshift"
	CloudDNS  Kind = "cloud-dns"
)

// Place is a key of a ConfigMap.
type Place struct{ Namespace, Name, Key string }

func (p Place) String() string { return p.Namespace + "/" + p.Name }

// Target is one object that has to carry the stub domain.
type Target struct {
	Kind Kind
	Place
	Main     Place    // where the Corefile itself is; differs from Place for Custom
	Workload Workload // whose pods do what the object says
	Port     int32    // on which its pods answer
	// Service is the cluster IP under which pods are asked; "" if there is no such Service.
	Service string
}

// Workload is a Deployment or a DaemonSet.
type Workload struct {
	Kind, Namespace, Name string
	Selector              map[string]string
	Labels                map[string]string // of its pods
	Spec                  corev1.PodSpec
	Idle                  bool // scaled to zero
}

// Cluster is what Detect looks at: what is in the namespaces of the cluster's DNS.
type Cluster struct {
	Mesh       string // the mesh's namespace
	Workloads  []Workload
	Services   []*corev1.Service
	ConfigMaps []*corev1.ConfigMap // those of Listed that exist
	Listed     []Place             // the ConfigMaps that may be read and changed; keys don't matter
	OpenShift  bool                // has the object "default" of dns.operator.openshift.io
	GCE        bool                // nodes are Google's
	// Nameservers are what pods use, if known (a pod's own resolv.conf).
	Nameservers []netip.Addr
}

// UnlistedError is a ConfigMap that the cluster's DNS reads and that may not be touched.
type UnlistedError struct{ Place }

func (e *UnlistedError) Error() string {
	return fmt.Sprintf("ConfigMap %s is not in the value dns.configMaps", e.Place)
}

// UnsupportedError is a cluster DNS that cannot be given a stub domain.
type UnsupportedError struct {
	Kind Kind // "" if nothing was recognised
	Why  string
}

func (e *UnsupportedError) Error() string { return e.Why }

// metadataServer is where Google's Cloud DNS answers.
var metadataServer = netip.AddrFrom4([4]byte{169, 254, 169, 254})

// Detect says which objects have to carry the stub domain. Errors are UnlistedError, UnsupportedError and LayoutError.
func Detect(c Cluster) ([]Target, error) {
	if c.OpenShift {
		return []Target{c.openShift()}, nil
	}
	if c.GCE && slices.Contains(c.Nameservers, metadataServer) {
		return nil, cloudDNS()
	}
	server, address, ok := c.server()
	if !ok && c.GCE {
		return nil, cloudDNS()
	}
	if !ok {
		return nil, &UnsupportedError{Why: "no Deployment or DaemonSet of CoreDNS or kube-dns was found in the namespaces of dns.configMaps"}
	}
	first, err := c.target(server)
	if err != nil {
		return nil, err
	}
	first.Service = address
	out := []Target{first}
	for _, w := range c.Workloads {
		if w.software() != NodeCache || w.Idle {
			continue
		}
		place, _, ok := c.corefileOf(w)
		if !ok {
			return nil, &UnsupportedError{Kind: NodeCache, Why: fmt.Sprintf("no ConfigMap with the Corefile of %s %s/%s was found", w.Kind, w.Namespace, w.Name)}
		}
		if !c.listed(place) {
			return nil, &UnlistedError{Place: place}
		}
		out = append(out, Target{Kind: NodeCache, Place: place, Main: place, Workload: w, Port: c.port(w, place), Service: address})
	}
	return out, nil
}

func cloudDNS() error {
	return &UnsupportedError{Kind: CloudDNS, Why: "pods ask Google's Cloud DNS, which cannot forward a zone into the cluster: " +
		"switch the cluster to kube-dns, or set dnsConfig in the pods that call mesh names"}
}

func (c Cluster) openShift() Target {
	t := Target{Kind: OpenShift, Place: Place{Name: "default"}, Port: 5353}
	for _, w := range c.Workloads {
		if w.Namespace == "openshift-dns" && w.Name == "dns-default" {
			t.Workload = w
		}
	}
	return t
}

// server is the workload behind the Service that pods ask, and that Service's address.
func (c Cluster) server() (Workload, string, bool) {
	answers := func(w Workload) bool {
		s := w.software()
		return !w.Idle && (s == Corefile || s == KubeDNS || s == "" && c.looksLikeCoreDNS(w))
	}
	for _, fits := range []func(*corev1.Service) bool{
		func(s *corev1.Service) bool {
			ip, err := netip.ParseAddr(s.Spec.ClusterIP)
			return err == nil && slices.Contains(c.Nameservers, ip)
		},
		func(s *corev1.Service) bool { return s.Name == "kube-dns" },
		func(s *corev1.Service) bool { return s.Labels["k8s-app"] == "kube-dns" },
	} {
		for _, s := range c.Services {
			for _, w := range c.Workloads {
				if fits(s) && selects(s, w) && answers(w) {
					return w, s.Spec.ClusterIP, true
				}
			}
		}
	}
	i := slices.IndexFunc(c.Workloads, func(w Workload) bool { return w.Labels["k8s-app"] == "kube-dns" && answers(w) })
	if i < 0 {
		return Workload{}, "", false
	}
	return c.Workloads[i], "", true
}

func selects(s *corev1.Service, w Workload) bool {
	for k, v := range s.Spec.Selector {
		if w.Labels[k] != v {
			return false
		}
	}
	return s.Namespace == w.Namespace && len(s.Spec.Selector) > 0
}

// target finds what to change for the cluster's own DNS server.
func (c Cluster) target(w Workload) (Target, error) {
	if w.software() == KubeDNS {
		place := Place{Namespace: w.Namespace, Name: "kube-dns", Key: "stubDomains"}
		if !c.listed(place) {
			return Target{}, &UnlistedError{Place: place}
		}
		return Target{Kind: KubeDNS, Place: place, Main: place, Workload: w, Port: 53}, nil
	}
	place, dir, ok := c.corefileOf(w)
	if !ok {
		return Target{}, &UnsupportedError{Kind: Corefile, Why: fmt.Sprintf("no ConfigMap with the Corefile of %s %s/%s was found", w.Kind, w.Namespace, w.Name)}
	}
	t := Target{Kind: Corefile, Place: place, Main: place, Workload: w, Port: c.port(w, place)}
	if !c.listed(place) {
		return Target{}, &UnlistedError{Place: place}
	}
	text := c.text(place)
	f, err := parse(text)
	if err != nil || Has(text, c.Mesh) {
		return t, nil // a Corefile that does not parse is for Patch to say
	}
	for _, i := range f.imports {
		if custom, ok := w.customPlace(i.text, dir, place); ok {
			if !c.listed(custom) {
				return Target{}, &UnlistedError{Place: custom}
			}
			t.Kind, t.Place = Custom, custom
			return t, nil
		}
	}
	return t, nil
}

// customPlace is the key that an import pattern would read from a ConfigMap of its own.
func (w Workload) customPlace(pattern, dir string, main Place) (Place, bool) {
	if !path.IsAbs(pattern) {
		pattern = path.Join(dir, pattern)
	}
	if strings.Count(path.Base(pattern), "*") != 1 {
		return Place{}, false
	}
	for _, m := range w.mounts() {
		if m.name != main.Name && m.path == path.Dir(pattern) && len(m.items) == 0 {
			return Place{Namespace: w.Namespace, Name: m.name, Key: strings.Replace(path.Base(pattern), "*", "tulle", 1)}, true
		}
	}
	return Place{}, false
}

func (c Cluster) listed(p Place) bool {
	return slices.ContainsFunc(c.Listed, func(l Place) bool { return l.Namespace == p.Namespace && l.Name == p.Name })
}

func (c Cluster) text(p Place) string {
	for _, cm := range c.ConfigMaps {
		if cm.Namespace == p.Namespace && cm.Name == p.Name {
			return cm.Data[p.Key]
		}
	}
	return ""
}
