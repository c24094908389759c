package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/bypass"
	"github.com/tulle-mesh/tulle/internal/controller"
	"github.com/tulle-mesh/tulle/internal/install"
	"github.com/tulle-mesh/tulle/internal/kube"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// planOptions are the flags of `tulle policy plan`.
type planOptions struct{ clusterOptions }

func newPolicyPlan() *cobra.Command {
	o := &planOptions{}
	cmd := &cobra.Command{
		Use:   "plan [NAMESPACE ...]",
		Short: "Show the NetworkPolicies that tulle.dev/bypass=close would write, and whom they would cut off",
		Long: `Show the NetworkPolicies that tulle.dev/bypass=close would write for the enforced workloads of the namespaces (default:
of all), and in comments who is known to call these past the mesh and would be cut off. Nothing is changed.

The mesh does not see calls that avoid it, so what is known of them is what objects say: annotations for Prometheus,
Ingresses, webhooks, Services that are open to the outside.`,
		Example: "  tulle policy plan shop",
		RunE:    func(cmd *cobra.Command, args []string) error { return o.run(cmd, args) },
	}
	o.flags(cmd)
	return cmd
}

func (o *planOptions) run(cmd *cobra.Command, namespaces []string) error {
	ctx := cmd.Context()
	cluster, err := o.connect()
	if err != nil {
		return err
	}
	settings, err := install.SettingsOf(ctx, cluster, o.namespace)
	if err != nil {
		return err
	}
	if settings == nil {
		return notInstalled(o.namespace)
	}
	snapshot, hidden, err := (&kube.Reader{Client: cluster.Kube, Dynamic: cluster.Dynamic, Namespaces: namespaces, Policies: true}).Read(ctx)
	if err != nil {
		return install.Explain(err)
	}
	known, more, err := callersIn(ctx, cluster, snapshot)
	if err != nil {
		return install.Explain(err)
	}
	p := plan{
		snapshot: snapshot, known: known, hidden: append(hidden, more...), topology: o.topology(settings), namespaces: namespaces,
		bypass: bypass.Config{Namespace: o.namespace, Default: bypass.Close, AntiSpoofing: settings["anti-spoofing"] == "true"},
	}
	for _, text := range settings.List("bypass-allow-from") {
		if peer, err := bypass.ParsePeer(text); err == nil {
			p.bypass.AllowFrom = append(p.bypass.AllowFrom, peer)
		}
	}
	return p.write(cmd.OutOrStdout())
}

// callersIn reads what else says who calls Services.
func callersIn(ctx context.Context, c *install.Cluster, s controller.Snapshot) (k bypass.Known, hidden []string, err error) {
	k = bypass.Known{Pods: s.Resources.Pods, Services: s.Resources.Services, Webhooks: map[topology.Name]string{}}
	check := func(what string, err error) error {
		if apierrors.IsForbidden(err) {
			hidden = append(hidden, what)
			return nil
		}
		return err
	}
	ingresses, err := c.Kube.NetworkingV1().Ingresses("").List(ctx, metav1.ListOptions{})
	if err := check("ingresses", err); err != nil {
		return k, nil, fmt.Errorf("list Ingresses: %w", err)
	}
	k.Ingresses = ingresses.Items
	webhooks := c.Kube.AdmissionregistrationV1()
	validating, err := webhooks.ValidatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	if err := check("validatingwebhookconfigurations", err); err != nil {
		return k, nil, fmt.Errorf("list ValidatingWebhookConfigurations: %w", err)
	}
	for _, x := range validating.Items {
		for _, w := range x.Webhooks {
			if w.ClientConfig.Service != nil {
				k.Webhooks[topology.Name{Namespace: w.ClientConfig.Service.Namespace, Name: w.ClientConfig.Service.Name}] = "the ValidatingWebhookConfiguration " + x.Name
			}
		}
	}
	mutating, err := webhooks.MutatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	if err := check("mutatingwebhookconfigurations", err); err != nil {
		return k, nil, fmt.Errorf("list MutatingWebhookConfigurations: %w", err)
	}
	for _, x := range mutating.Items {
		for _, w := range x.Webhooks {
			if w.ClientConfig.Service != nil {
				k.Webhooks[topology.Name{Namespace: w.ClientConfig.Service.Namespace, Name: w.ClientConfig.Service.Name}] = "the MutatingWebhookConfiguration " + x.Name
			}
		}
	}
	return k, hidden, nil
}

// plan is what `tulle policy plan` shows.
type plan struct {
	snapshot   controller.Snapshot
	known      bypass.Known
	hidden     []string // that the user may not read
	topology   topology.Config
	bypass     bypass.Config
	namespaces []string // none means all
}

func (p *plan) write(w io.Writer) error {
	r := &p.snapshot.Resources
	t, _ := topology.Build(p.topology, *r)
	mode := topology.Access(p.topology, *r)
	result := bypass.Build(p.bypass, bypass.Input{
		Exposed: t.Exposed, Enforced: func(n topology.Name) bool { return mode(n) == topology.AccessEnforce },
		Pods: r.Pods, Namespaces: p.closed(), ServiceAccounts: r.ServiceAccounts, Owners: p.snapshot.Owners, Policies: p.snapshot.Policies,
	})
	callers := bypass.Callers(t, p.known)
	var b strings.Builder
	for _, h := range p.hidden {
		fmt.Fprintf(&b, "# You may not read %s: this leaves it out, and may be wrong for that.\n", h)
	}
	none := true
	for i := range result.Workloads {
		if x := &result.Workloads[i]; p.wanted(x.Name.Namespace) {
			none = false
			writeWorkload(&b, x, callers[x.Name], p.bypass.AllowFrom)
		}
	}
	if none {
		b.WriteString("# No workload of these namespaces is enforced (label tulle.dev/access=enforce) and behind a Service: nothing to close.\n")
	}
	changes := bypass.Plan(p.bypass.Namespace, result.Wanted, p.snapshot.Policies)
	for _, list := range []struct {
		verb     string
		policies []*networkingv1.NetworkPolicy
	}{{"written", changes.Create}, {"changed", changes.Update}, {"deleted", changes.Delete}} {
		for _, np := range list.policies {
			if err := p.writePolicy(&b, list.verb, np); err != nil {
				return err
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (p *plan) wanted(namespace string) bool {
	return len(p.namespaces) == 0 || slices.Contains(p.namespaces, namespace)
}

// closed are the namespaces as they would be.
func (p *plan) closed() []*corev1.Namespace {
	var out []*corev1.Namespace
	for _, n := range p.snapshot.Resources.Namespaces {
		if p.wanted(n.Name) {
			n = n.DeepCopy()
			n.Labels = maps.Clone(n.Labels)
			delete(n.Labels, bypass.Label)
		}
		out = append(out, n)
	}
	return out
}

// writeWorkload says in comments what is known of one.
func writeWorkload(b *strings.Builder, w *bypass.Workload, callers []string, allowed []bypass.Peer) {
	var ports []string
	for _, p := range w.Ports {
		ports = append(ports, p.String())
	}
	fmt.Fprintf(b, "# %s, %s\n", w.Name, strings.Join(ports, ", "))
	for _, why := range w.Open {
		fmt.Fprintf(b, "#   now open: %s\n", why)
	}
	for _, who := range w.Except {
		fmt.Fprintf(b, "#   admitted by NetworkPolicies that are there, and stays so: %s\n", who)
	}
	for _, who := range callers {
		fmt.Fprintf(b, "#   would be cut off, if %s does not name them: %s\n", bypass.AllowAnnotation, who)
	}
	if len(callers) == 0 {
		b.WriteString("#   no object names anybody who calls it past the mesh; the mesh does not see such calls\n")
	}
	if len(allowed) > 0 {
		fmt.Fprintf(b, "#   stays open to the %d of bypass.allowFrom\n", len(allowed))
	}
}

func (p *plan) writePolicy(b *strings.Builder, verb string, np *networkingv1.NetworkPolicy) error {
	if !p.wanted(np.Namespace) {
		return nil
	}
	if verb == "deleted" {
		fmt.Fprintf(b, "# would be deleted: NetworkPolicy %s/%s\n", np.Namespace, np.Name)
		return nil
	}
	out := &networkingv1.NetworkPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: networkingv1.SchemeGroupVersion.String(), Kind: "NetworkPolicy"},
		ObjectMeta: metav1.ObjectMeta{Namespace: np.Namespace, Name: np.Name, Labels: np.Labels, Annotations: np.Annotations},
		Spec:       np.Spec,
	}
	text, err := yaml.Marshal(out)
	if err != nil {
		return fmt.Errorf("encode NetworkPolicy %s/%s: %w", np.Namespace, np.Name, err)
	}
	fmt.Fprintf(b, "---\n# would be %s\n%s", verb, text)
	return nil
}
