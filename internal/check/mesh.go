package check

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/install"
	"github.com/tulle-mesh/tulle/internal/kube"
	"github.com/tulle-mesh/tulle/internal/status"
	"github.com/tulle-mesh/tulle/internal/version"
)

// mesh is an installed mesh that is looked at. What several checks need is read once.
type mesh struct {
	*Checker
	settings install.Settings
	status   *status.Status // nil until controllers read it, or if there is none
	pods     []corev1.Pod   // of the proxies
}

func (m *mesh) controllers(ctx context.Context) ([]Finding, error) {
	d, err := m.Cluster.Kube.AppsV1().Deployments(m.Namespace).Get(ctx, "tulle-controller", metav1.GetOptions{})
	if err != nil {
		return nil, install.WithNext(fmt.Errorf("get the controllers: %w", err), "install the mesh with `tulle install`")
	}
	if m.status, err = install.ReadStatus(ctx, m.Cluster, m.Namespace); err != nil {
		return nil, err
	}
	out := m.available(ctx, d.Status.AvailableReplicas, install.Wanted(d), "controller", "controllers")
	if m.status == nil {
		return append(out, Finding{Level: Failed, Message: "the controllers have not reported anything", Next: "kubectl -n " + m.Namespace + " logs -l app.kubernetes.io/component=controller"}), nil
	}
	out = append(out, m.leader(ctx)...)
	for _, r := range m.status.Replicas {
		if r.Version != version.Version {
			out = append(out, Finding{Level: Note, Message: fmt.Sprintf("controller %s is of version %s, this command of %s", r.Pod, r.Version, version.Version), Next: "`tulle upgrade` brings the mesh to the version of this command"})
		}
	}
	if len(out) == 0 {
		out = append(out, Finding{Level: OK, Message: fmt.Sprintf("%d controllers are available, %s leads", d.Status.AvailableReplicas, m.status.Leader.Pod)})
	}
	return out, nil
}

// available says which pods of a component are not; nothing if all are.
func (m *mesh) available(ctx context.Context, are, wanted int32, component, called string) []Finding {
	if are >= wanted {
		return nil
	}
	f := Finding{Level: Failed, Message: fmt.Sprintf("%d of %d %s are available", are, wanted, called), Next: "kubectl -n " + m.Namespace + " describe pods -l app.kubernetes.io/component=" + component}
	if why := install.Diagnose(ctx, m.Cluster, m.Namespace, component); why != nil {
		f.Message, f.Next = f.Message+": "+why.Cause, why.Next
	}
	return []Finding{f}
}

func (m *mesh) leader(ctx context.Context) []Finding {
	lease, err := m.Cluster.Kube.CoordinationV1().Leases(m.Namespace).Get(ctx, "tulle-controller", metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return []Finding{failure(fmt.Errorf("get the controllers' lease: %w", err))}
	}
	holder := ""
	if err == nil && lease.Spec.HolderIdentity != nil {
		holder = *lease.Spec.HolderIdentity
	}
	if holder == "" || m.status.Leader.Pod == "" {
		return []Finding{{Level: Failed, Message: "no controller leads: nothing is written to the cluster", Next: "wait half a minute; then look at the controllers' logs"}}
	}
	return nil
}

// proxies says whether every node has a ready one.
func (m *mesh) proxies(ctx context.Context) ([]Finding, error) {
	d, err := m.Cluster.Kube.AppsV1().DaemonSets(m.Namespace).Get(ctx, "tulle-proxy", metav1.GetOptions{})
	if err != nil {
		return nil, install.WithNext(fmt.Errorf("get the proxies: %w", err), "install the mesh with `tulle install`")
	}
	list, err := m.Cluster.Kube.CoreV1().Pods(m.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=tulle,app.kubernetes.io/component=proxy"})
	if err != nil {
		return nil, fmt.Errorf("list the proxies: %w", err)
	}
	m.pods = list.Items
	s := d.Status
	switch {
	case s.DesiredNumberScheduled == 0:
		return []Finding{{Level: Failed, Message: "no node takes a proxy", Next: "set proxy.nodeSelector to what nodes have"}}, nil
	case s.NumberReady < s.DesiredNumberScheduled:
		f := Finding{Level: Failed, Message: fmt.Sprintf("%d of %d proxies are ready", s.NumberReady, s.DesiredNumberScheduled), Next: "kubectl -n " + m.Namespace + " describe pods -l app.kubernetes.io/component=proxy"}
		if why := install.Diagnose(ctx, m.Cluster, m.Namespace, "proxy"); why != nil {
			f.Message, f.Next = f.Message+": "+why.Cause, why.Next
		}
		return []Finding{f}, nil
	}
	out := []Finding{{Level: OK, Message: fmt.Sprintf("%d proxies are ready, one on each node", s.NumberReady)}}
	if s.UpdatedNumberScheduled < s.DesiredNumberScheduled {
		out = append(out, Finding{Level: Note, Message: fmt.Sprintf("%d of %d proxies are of the new version", s.UpdatedNumberScheduled, s.DesiredNumberScheduled), Next: "wait until the roll-out ends"})
	}
	return out, nil
}

// config says whether every ready proxy is connected to a controller and has what that serves.
func (m *mesh) config(context.Context) ([]Finding, error) {
	if m.status == nil {
		return nil, nil
	}
	connected := map[string]status.Proxy{}
	for _, r := range m.status.Replicas {
		for _, p := range r.Proxies {
			if known, has := connected[p.Pod]; !has || known.Connected.Before(p.Connected) {
				connected[p.Pod] = p
			}
		}
	}
	var out []Finding
	var lost, behind []string
	for _, pod := range m.pods {
		p, has := connected[pod.Name]
		switch {
		case pod.DeletionTimestamp != nil || pod.Status.Phase != corev1.PodRunning:
		case !has:
			lost = append(lost, pod.Name)
		case len(p.Refused) > 0:
			out = append(out, Finding{Level: Failed, Message: fmt.Sprintf("proxy %s refuses %s %s: %s", p.Pod, p.Refused[0].Type, p.Refused[0].Name, p.Refused[0].Reason), Next: "what it had before stays in use; report this with `tulle bugreport`"})
		case !p.Current:
			behind = append(behind, pod.Name)
		}
	}
	if len(lost) > 0 {
		out = append(out, Finding{Level: Failed, Message: "not connected to a controller: " + some(lost), Next: "they go on with the last config they had; look at their logs for why they can't connect"})
	}
	if len(behind) > 0 {
		out = append(out, Finding{Level: Note, Message: "have not confirmed the current config yet: " + some(behind), Next: "check again in a few seconds; the runbook's TulleProxyBehind says more"})
	}
	if versions := m.configVersions(); len(versions) > 1 {
		out = append(out, Finding{Level: Note, Message: "the controllers serve different configs: " + strings.Join(versions, ", "), Next: "check again in a few seconds: one of them has not seen a change yet"})
	}
	if len(out) == 0 {
		out = append(out, Finding{Level: OK, Message: "every proxy has the current config"})
	}
	return out, nil
}

func (m *mesh) configVersions() []string {
	var out []string
	for _, r := range m.status.Replicas {
		if !slices.Contains(out, r.ConfigVersion) {
			out = append(out, r.ConfigVersion)
		}
	}
	slices.Sort(out)
	return out
}

// dns says what the leading controller was told about the cluster's DNS, and whether what keeps it runs.
func (m *mesh) dns(ctx context.Context) ([]Finding, error) {
	if m.status == nil {
		return nil, nil
	}
	var out []Finding
	if m.status.Bypass {
		out = append(out, Finding{Level: Failed, Message: "the kill switch is on: mesh names lead past the mesh", Next: "tulle dns bypass off"})
	}
	// With an older version, the controllers do that.
	keeps, err := m.Cluster.Kube.AppsV1().Deployments(m.Namespace).Get(ctx, kube.DNSWriter, metav1.GetOptions{})
	switch {
	case err == nil:
		out = append(out, m.available(ctx, keeps.Status.AvailableReplicas, install.Wanted(keeps), "dns", "pods that keep the cluster's DNS")...)
	case !apierrors.IsNotFound(err):
		return out, fmt.Errorf("get Deployment %s/%s: %w", m.Namespace, kube.DNSWriter, err)
	}
	d := m.status.Leader.DNS
	switch {
	case m.settings["dns-mode"] == "off":
		return append(out, Finding{Level: Note, Message: "dns.mode is off: the cluster's DNS is left alone"}), nil
	case d == nil:
		return append(out, Finding{Level: Failed, Message: "nobody has looked at the cluster's DNS yet", Next: "check again in a minute"}), nil
	case d.State == "ok":
		return append(out, Finding{Level: OK, Message: "the cluster's DNS sends the mesh's zones to the mesh (" + d.Object + ")"}), nil
	case d.State == "print":
		return append(out, Finding{Level: Note, Message: "dns.mode is print; this is to be in the cluster's DNS configuration:\n" + d.Message}), nil
	}
	return append(out, Finding{Level: Failed, Message: "DNS is " + d.State + ": " + cmp.Or(d.Message, "no details"), Next: "docs/runbook.md, TulleDNSNotServing"}), nil
}

const (
	adviseShared   = 20_000 // dedicated addresses times nodes, above which addresses.http=shared is advised
	mostDedicated  = 50_000
	mostSharedHTTP = 5_000
)

// addresses says whether every service has its mesh address, and how far the cluster is from the limits.
func (m *mesh) addresses(context.Context) ([]Finding, error) {
	if m.status == nil {
		return nil, nil
	}
	a := m.status.Leader.Addresses
	var out []Finding
	if a.Assigned < a.Services {
		out = append(out, Finding{Level: Failed, Message: fmt.Sprintf("%d of %d services have no mesh address", a.Services-a.Assigned, a.Services), Next: "new ones get theirs within seconds; the problems below say why others don't"})
	}
	if product := a.Dedicated * a.Nodes; product > mostDedicated {
		out = append(out, Finding{Level: Failed, Message: fmt.Sprintf("%d dedicated addresses on %d nodes are more than the %d that work well", a.Dedicated, a.Nodes, mostDedicated), Next: "set addresses.http=shared"})
	} else if product > adviseShared {
		out = append(out, Finding{Level: Note, Message: fmt.Sprintf("%d dedicated addresses on %d nodes", a.Dedicated, a.Nodes), Next: "set addresses.http=shared before there are more"})
	}
	if a.Shared > mostSharedHTTP {
		out = append(out, Finding{Level: Note, Message: fmt.Sprintf("%d services share the HTTP address; %d is what was measured", a.Shared, mostSharedHTTP)})
	}
	if len(out) == 0 {
		out = append(out, Finding{Level: OK, Message: fmt.Sprintf("%d services have a mesh address (%s)", a.Assigned, a.Mode)})
	}
	return out, nil
}

// bypass lists the protected workloads that can be called past the mesh.
func (m *mesh) bypass(context.Context) ([]Finding, error) {
	if m.status == nil || len(m.status.Leader.Direct) == 0 {
		return nil, nil
	}
	var out []Finding
	for _, d := range m.status.Leader.Direct {
		if len(d.Why) == 0 {
			continue
		}
		f := Finding{Level: Note, Message: fmt.Sprintf("%s can be called past the mesh: %s", d.Workload, strings.Join(d.Why, "; ")), Next: "tulle policy plan shows what bypass=close would write; docs/access-control.md, the way around"}
		if d.Mode == "close" {
			f.Level, f.Next = Failed, "docs/access-control.md, the way around"
		}
		out = append(out, f)
	}
	if len(out) == 0 {
		return []Finding{{Level: OK, Message: fmt.Sprintf("%d protected workloads can't be called past the mesh, but for whom tulle status names", len(m.status.Leader.Direct))}}, nil
	}
	const most = 20
	if more := len(out) - most; more > 0 {
		out = append(out[:most], Finding{Level: out[most].Level, Message: fmt.Sprintf("and %d workloads more can be called past the mesh", more), Next: "tulle status"})
	}
	return out, nil
}

// problems lists what is wrong with users' objects.
func (m *mesh) problems(context.Context) ([]Finding, error) {
	if m.status == nil {
		return nil, nil
	}
	var out []Finding
	for _, p := range m.status.Leader.Problems {
		out = append(out, Finding{
			Level: Failed, Message: fmt.Sprintf("%s %s: %s: %s", p.Kind, strings.TrimPrefix(p.Namespace+"/"+p.Name, "/"), p.Reason, p.Message),
			Next: "docs/problems.md, " + string(p.Reason),
		})
	}
	if more := m.status.Leader.ProblemCount - len(out); more > 0 {
		out = append(out, Finding{Level: Failed, Message: fmt.Sprintf("and %d problems more", more), Next: "kubectl get events -A --field-selector type=Warning"})
	}
	if len(out) == 0 {
		out = append(out, Finding{Level: OK, Message: "no object has a problem"})
	}
	return out, nil
}
