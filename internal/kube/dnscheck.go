package kube

import (
	"context"
	"fmt"
	"net/netip"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/corefile"
)

// DNSLevel says how bad a finding is.
type DNSLevel string

// The levels of findings.
const (
	DNSFine DNSLevel = "ok"
	DNSWarn DNSLevel = "warning"
	DNSFail DNSLevel = "failure"
)

// DNSFinding is one thing that was found out about the cluster's DNS.
type DNSFinding struct {
	Level   DNSLevel
	Message string
}

// Preflight looks whether the zones can be put into the cluster's DNS, and changes nothing. It can be run before the mesh
// is installed, from outside of the cluster.
func (a DNSAccess) Preflight(ctx context.Context, zones []string, clusterDomain string) []DNSFinding {
	var out []DNSFinding
	for _, zone := range zones {
		out = append(out, a.checkZone(ctx, zone, clusterDomain))
	}
	targets, err := a.detect(ctx)
	if err != nil {
		return append(out, DNSFinding{DNSFail, DNSTarget{}.refused(err).Message})
	}
	for _, t := range targets {
		out = append(out, a.checkTarget(ctx, t, zones)...)
	}
	return out
}

func (a DNSAccess) checkZone(ctx context.Context, zone, clusterDomain string) DNSFinding {
	if err := corefile.ValidZone(zone, clusterDomain); err != nil {
		return DNSFinding{DNSFail, err.Error()}
	}
	if err := a.zonesFree(ctx, []string{zone}); err != nil {
		return DNSFinding{DNSFail, err.Error()}
	}
	return DNSFinding{DNSFine, fmt.Sprintf("zone %s: no namespace is called %s", zone, corefile.Hijack(zone))}
}

func (a DNSAccess) checkTarget(ctx context.Context, t corefile.Target, zones []string) []DNSFinding {
	o, err := a.read(ctx, t)
	if err != nil {
		return []DNSFinding{{DNSFail, err.Error()}}
	}
	// Any address will do: nothing is written.
	b := corefile.Block{Mesh: a.Namespace, Zones: zones, Servers: []netip.Addr{netip.IPv6Loopback()}}
	if _, err := o.patch(b); err != nil {
		s := DNSTarget{Object: o.name(), Ref: o.ref()}.refused(err)
		return []DNSFinding{{DNSFail, fmt.Sprintf("%s (%s): %s", o.name(), t.Kind, s.Message)}}
	}
	out := []DNSFinding{{DNSFine, fmt.Sprintf("%s (%s) can carry the zones; it is served by %s %s/%s", o.name(), t.Kind, t.Workload.Kind, t.Workload.Namespace, t.Workload.Name)}}
	if o.reloads() == 0 {
		out = append(out, DNSFinding{DNSWarn, fmt.Sprintf("%s has no `reload`: CoreDNS has to be restarted after a change (value dns.restart does it)", o.name())})
	}
	return out
}

// hasNamespace lists by name, for which the right to list is enough.
func (a DNSAccess) hasNamespace(ctx context.Context, name string) (bool, error) {
	list, err := a.Client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		return false, fmt.Errorf("look for namespace %s: %w", name, err)
	}
	for _, n := range list.Items {
		if n.Name == name {
			return true, nil
		}
	}
	return false, nil
}
