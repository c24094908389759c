package install

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
)

// rightsOf are the rights of a ServiceAccount of the mesh, one a line: where, what and which verbs.
func rightsOf(t *testing.T, r Rendered, account string) []string {
	t.Helper()
	var out []string
	for _, o := range r.Objects {
		var b rbacv1.RoleBinding
		if o.GetKind() != "RoleBinding" && o.GetKind() != "ClusterRoleBinding" {
			continue
		}
		typed(t, o, &b)
		if !slices.ContainsFunc(b.Subjects, func(s rbacv1.Subject) bool {
			return s.Kind == "ServiceAccount" && s.Name == account && s.Namespace == "tulle-system"
		}) {
			continue
		}
		for _, role := range r.Objects {
			if role.GetKind() != b.RoleRef.Kind || role.GetName() != b.RoleRef.Name || role.GetNamespace() != o.GetNamespace() {
				continue
			}
			var rules rbacv1.Role
			typed(t, role, &rules)
			for _, rule := range rules.Rules {
				for _, resource := range rule.Resources {
					names := rule.ResourceNames
					if len(names) == 0 {
						names = []string{"*"}
					}
					for _, name := range names {
						out = append(out, strings.TrimSpace(strings.Join([]string{o.GetNamespace(), resource, name, strings.Join(rule.Verbs, ",")}, " ")))
					}
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

// What keeps the cluster's DNS may do this and nothing else. Each line is used: internal/kube's dns*.go.
func TestRightsOfWhatKeepsTheDNS(t *testing.T) {
	const maps = "dns: {configMaps: [{namespace: kube-system, name: coredns}, {namespace: kube-system, name: coredns-custom}, {namespace: dns, name: node}]"
	always := []string{
		"namespaces mesh list", // could one answer for the mesh?
		"nodes * list",         // is it GKE?
		"tulle-system services tulle-dns get",
		"tulle-system configmaps tulle-dns get,create,patch", // the record, and how things stand
		"tulle-system leases * create",
		"tulle-system leases tulle-dns get,update",
		"dns services * list", "dns pods * list",
		"kube-system services * list", "kube-system pods * list",
	}
	trial := []string{"tulle-system configmaps tulle-dns-trial create,patch,delete", "tulle-system pods tulle-dns-trial get,create,patch,delete"}
	look := []string{"dns deployments * list", "dns daemonsets * list", "kube-system deployments * list", "kube-system daemonsets * list"}
	read := []string{"dns configmaps node get,list,watch", "kube-system configmaps coredns get,list,watch", "kube-system configmaps coredns-custom get,list,watch"}
	write := []string{
		"dns configmaps node get,list,watch,create,update,patch", "kube-system configmaps coredns get,list,watch,create,update,patch",
		"kube-system configmaps coredns-custom get,list,watch,create,update,patch", "kube-system configmaps coredns-custom delete",
	}
	for values, want := range map[string][]string{
		maps + "}":                slices.Concat(always, trial, look, write),
		maps + ", trial: false}":  slices.Concat(always, look, write),
		maps + ", mode: print}":   slices.Concat(always, look, read),
		maps + `, mode: "off"}`:   nil,
		maps + ", restart: true}": slices.Concat(always, trial, write, []string{"dns deployments * list,patch", "dns daemonsets * list,patch", "kube-system deployments * list,patch", "kube-system daemonsets * list,patch"}),
		maps + ", openshift: true}": slices.Concat(always, trial, look, write, []string{
			"dnses default get,update", "openshift-dns services * list", "openshift-dns pods * list", "openshift-dns deployments * list", "openshift-dns daemonsets * list",
		}),
	} {
		slices.Sort(want)
		if diff := cmp.Diff(want, rightsOf(t, render(t, values), "tulle-dns")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", values, diff)
		}
	}
}

// Whoever has taken over a controller can't change how the cluster resolves names: none of their roles names the
// configuration of its DNS, makes pods, or reaches out of the mesh's namespace to write ConfigMaps or workloads.
func TestControllersMayNotTouchTheDNS(t *testing.T) {
	for _, values := range []string{"{}", everything, withTraefik(stockTraefik)} {
		rights := rightsOf(t, render(t, values), "tulle-controller")
		if len(rights) < 20 {
			t.Fatalf("found %d rights only", len(rights))
		}
		for _, right := range rights {
			for _, name := range []string{"coredns", "kube-dns", "node-local-dns", "dnses", "tulle-dns-trial", "kube-system", "openshift-dns"} {
				if strings.Contains(right, name) {
					t.Errorf("they may: %s", right)
				}
			}
			f := strings.Fields(right)
			verbs := strings.Split(f[len(f)-1], ",")
			writes := slices.ContainsFunc(verbs, func(v string) bool { return !slices.Contains([]string{"get", "list", "watch"}, v) })
			for _, resource := range []string{"pods", "deployments", "daemonsets"} {
				if slices.Contains(f, resource) && writes {
					t.Errorf("they may: %s", right)
				}
			}
			if slices.Contains(f, "tulle-dns") && writes {
				t.Errorf("they may change what the other process writes down: %s", right)
			}
		}
	}
}

// Nothing reaches what keeps the cluster's DNS but scrapers, and the trial's pod nothing but that. The one is not taken for
// the other.
func TestPoliciesOfWhatKeepsTheDNS(t *testing.T) {
	r := render(t, "{}")
	var writer, trial networkingv1.NetworkPolicy
	typed(t, find(t, r, "NetworkPolicy", "tulle-dns"), &writer)
	typed(t, find(t, r, "NetworkPolicy", "tulle-dns-trial"), &trial)
	labels := func(component string) map[string]string {
		return map[string]string{"app.kubernetes.io/name": "tulle", "app.kubernetes.io/component": component}
	}
	if diff := cmp.Diff(labels("dns"), writer.Spec.PodSelector.MatchLabels); diff != "" {
		t.Error(diff)
	}
	if in := writer.Spec.Ingress; len(in) != 1 || in[0].Ports[0].Port.IntValue() != 15014 || in[0].From[0].NamespaceSelector == nil {
		t.Errorf("who may ask the one that keeps it: %+v", in)
	}
	if diff := cmp.Diff(labels("dns-trial"), trial.Spec.PodSelector.MatchLabels); diff != "" {
		t.Error(diff)
	}
	if in := trial.Spec.Ingress; len(in) != 1 || len(in[0].From) != 1 || cmp.Diff(labels("dns"), in[0].From[0].PodSelector.MatchLabels) != "" {
		t.Errorf("who may ask the trial: %+v", in)
	}
	typed(t, find(t, render(t, "networkPolicy: {metricsNamespaces: []}"), "NetworkPolicy", "tulle-dns"), &writer)
}

// Whoever may make a pod in the mesh's namespace can be any of its accounts, unless something looks at what is in it.
func TestTheTrialIsLimited(t *testing.T) {
	for values, want := range map[string]bool{
		"{}": true, "admission: {protectTrial: false}": false, "dns: {trial: false}": false, "dns: {mode: print}": false, `dns: {mode: "off"}`: false,
	} {
		var policy admissionregistrationv1.ValidatingAdmissionPolicy
		bound := false
		for _, o := range render(t, values).Objects {
			switch {
			case o.GetName() != "tulle-dns-trial.tulle-system":
			case o.GetKind() == "ValidatingAdmissionPolicy":
				typed(t, o, &policy)
			case o.GetKind() == "ValidatingAdmissionPolicyBinding":
				bound = true
			}
		}
		if got := policy.Name != ""; got != want || bound != want {
			t.Errorf("%s: limited: %v, bound %v", values, got, bound)
		}
		if !want {
			continue
		}
		if c := policy.Spec.MatchConditions; len(c) != 1 || c[0].Expression != `request.userInfo.username == "system:serviceaccount:tulle-system:tulle-dns"` {
			t.Errorf("it is about %+v", c)
		}
		if *policy.Spec.FailurePolicy != admissionregistrationv1.Fail || len(policy.Spec.Validations) != 5 {
			t.Errorf("%+v", policy.Spec)
		}
	}
}
