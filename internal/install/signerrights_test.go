package install

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
)

// rights are what RBAC lets accounts of the mesh do in its namespace.
type rights struct {
	rules map[string][]rbacv1.PolicyRule // by account
}

func rulesOf(t *testing.T, r Rendered) rights {
	t.Helper()
	roles := map[string][]rbacv1.PolicyRule{} // by kind and name
	out := rights{map[string][]rbacv1.PolicyRule{}}
	for _, o := range r.Objects {
		if o.GetNamespace() != "" && o.GetNamespace() != "tulle-system" {
			continue
		}
		switch o.GetKind() {
		case "Role", "ClusterRole":
			var role rbacv1.Role // their rules are the same
			typed(t, o, &role)
			roles[o.GetKind()+" "+role.Name] = role.Rules
		}
	}
	for _, o := range r.Objects {
		if o.GetNamespace() != "" && o.GetNamespace() != "tulle-system" {
			continue
		}
		if o.GetKind() != "RoleBinding" && o.GetKind() != "ClusterRoleBinding" {
			continue
		}
		var b rbacv1.RoleBinding
		typed(t, o, &b)
		rules, ok := roles[b.RoleRef.Kind+" "+b.RoleRef.Name]
		if !ok {
			t.Errorf("%s binds what there isn't: %s", b.Name, b.RoleRef.Name)
		}
		for _, s := range b.Subjects {
			if s.Kind != rbacv1.ServiceAccountKind || s.Namespace != "tulle-system" {
				t.Errorf("%s gives rights to %s %s/%s", b.Name, s.Kind, s.Namespace, s.Name)
			}
			out.rules[s.Name] = append(out.rules[s.Name], rules...)
		}
	}
	return out
}

// may lists the accounts that may do something to an object. A create has a name if it is by server-side apply.
func (r rights) may(verb, resource, name string) (out []string) {
	for account, rules := range r.rules {
		if slices.ContainsFunc(rules, func(rule rbacv1.PolicyRule) bool {
			return slices.Contains(rule.APIGroups, "") && slices.Contains(rule.Verbs, verb) && slices.Contains(rule.Resources, resource) &&
				(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, name))
		}) {
			out = append(out, account)
		}
	}
	slices.Sort(out)
	return out
}

// Who may read the CA's key is who certifies, and nobody else; somebody else's CA is not written to. Who certifies reads pods
// and nothing else that users write.
func TestOnlyTheSignerHasTheKey(t *testing.T) {
	for _, tc := range []struct{ values, secret, may string }{
		{values: "{}", secret: "tulle-identity-ca", may: "get create update patch"},
		{values: everything, secret: "corp-ca", may: "get"},
		{values: "identity: {ca: {secret: corp-ca}}", secret: "corp-ca", may: "get"},
		{values: "identity: {mode: spire}", secret: "tulle-identity-ca"},
		{values: "identity: {mode: \"off\"}", secret: "tulle-identity-ca"},
		{values: "proxy: {engine: traefik}", secret: "tulle-identity-ca"},
	} {
		r := rulesOf(t, render(t, tc.values))
		if len(r.rules["tulle-controller"]) < 5 {
			t.Fatalf("%s: the controllers have %d rules: nothing was looked at", tc.values, len(r.rules["tulle-controller"]))
		}
		for _, verb := range []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"} {
			want := []string(nil)
			if slices.Contains(strings.Fields(tc.may), verb) {
				want = []string{"tulle-identity"}
			}
			if got := r.may(verb, "secrets", tc.secret); !slices.Equal(got, want) {
				t.Errorf("%.60s: %v may %s Secret %s, want %v", tc.values, got, verb, tc.secret, want)
			}
		}
		// A Secret of any name could be one with another account's token, a pod of any name one with its account.
		for _, resource := range []string{"secrets", "configmaps", "pods"} {
			if got := r.may("create", resource, "any"); len(got) > 0 {
				t.Errorf("%.60s: %v may create any of %s", tc.values, got, resource)
			}
		}
		for _, resource := range []string{"serviceaccounts/token", "pods/exec", "pods/ephemeralcontainers", "pods/attach"} {
			for _, verb := range []string{"create", "get", "update", "patch"} {
				if got := r.may(verb, resource, ""); len(got) > 0 {
					t.Errorf("%.60s: %v may %s %s", tc.values, got, verb, resource)
				}
			}
		}
		if tc.may == "" {
			if got := r.rules["tulle-identity"]; got != nil {
				t.Errorf("%.60s: tulle-identity may %v", tc.values, got)
			}
			continue
		}
		for verb, want := range map[string][]string{"get": {"tulle-controller", "tulle-identity"}, "create": {"tulle-identity"}, "watch": {"tulle-controller"}, "update": {"tulle-identity"}, "patch": {"tulle-identity"}, "delete": nil} {
			if got := r.may(verb, "configmaps", "tulle-trust"); !slices.Equal(got, want) {
				t.Errorf("%.60s: %v may %s ConfigMap tulle-trust, want %v", tc.values, got, verb, want)
			}
		}
		var reads []string
		for _, rule := range r.rules["tulle-identity"] {
			reads = append(reads, rule.Resources...)
		}
		slices.Sort(reads)
		if got := slices.Compact(reads); !slices.Equal(got, []string{"configmaps", "pods", "secrets", "tokenreviews"}) {
			t.Errorf("%.60s: tulle-identity has rights on %v", tc.values, got)
		}
	}
}

// Only where the mesh has a CA of its own is there who keeps it, and do proxies have what they need to ask.
func TestIdentityModes(t *testing.T) {
	for _, tc := range []struct {
		values                string
		signer, tunnel, spire bool
	}{
		{values: "{}", signer: true, tunnel: true},
		{values: "identity: {ca: {secret: corp-ca}}", signer: true, tunnel: true},
		{values: "identity: {mode: spire}", tunnel: true, spire: true},
		{values: "identity: {mode: \"off\"}"},
		{values: "proxy: {engine: traefik}"},
		{values: "{proxy: {engine: traefik}, identity: {mode: spire}}"},
	} {
		r := render(t, tc.values)
		var kinds []string
		for _, o := range r.Objects {
			if strings.HasPrefix(o.GetName(), "tulle-identity") {
				kinds = append(kinds, o.GetKind())
			}
		}
		slices.Sort(kinds)
		var want []string
		if tc.signer {
			want = []string{"ClusterRole", "ClusterRoleBinding", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Role", "RoleBinding", "Service", "ServiceAccount"}
		}
		if !slices.Equal(kinds, want) {
			t.Errorf("%s: tulle-identity is %v", tc.values, kinds)
		}
		var proxy appsv1.DaemonSet
		typed(t, find(t, r, "DaemonSet", "tulle-proxy"), &proxy)
		spec := proxy.Spec.Template.Spec
		tunnel := slices.ContainsFunc(spec.Containers[0].Ports, func(p corev1.ContainerPort) bool { return p.ContainerPort == 15008 })
		spire := slices.ContainsFunc(spec.Volumes, func(v corev1.Volume) bool { return v.CSI != nil && v.CSI.Driver == "csi.spiffe.io" })
		if tunnel != tc.tunnel || spire != tc.spire {
			t.Errorf("%s: tunnel %v, SPIRE's socket %v", tc.values, tunnel, spire)
		}
		asks := map[string]string{"--identity-address=tulle-identity.tulle-system.svc:15012": "arg", "/etc/tulle/trust/ca.crt": "tulle-trust", "/var/run/secrets/tulle/identity-token": "tulle-identity"}
		got := map[string]string{}
		for _, arg := range spec.Containers[0].Args {
			if strings.HasPrefix(arg, "--identity-address") {
				got[arg] = "arg"
			}
		}
		for _, m := range spec.Containers[0].VolumeMounts {
			for _, v := range spec.Volumes {
				if v.Name != m.Name {
					continue
				}
				if c := v.ConfigMap; c != nil && c.Name != "tulle-ca" && c.Name != "tulle-traefik" {
					for _, item := range c.Items {
						got[m.MountPath+"/"+item.Path] = c.Name
					}
				}
				if v.Projected != nil {
					for _, s := range v.Projected.Sources {
						if a := s.ServiceAccountToken.Audience; a != "tulle" {
							got[m.MountPath+"/"+s.ServiceAccountToken.Path] = a
						}
					}
				}
			}
		}
		if !tc.signer {
			asks = map[string]string{}
		}
		if !maps.Equal(got, asks) {
			t.Errorf("%s: proxies ask by %s", tc.values, fmt.Sprint(got))
		}
	}
}
