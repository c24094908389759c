package corefile

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestValidZone(t *testing.T) {
	for zone, ok := range map[string]bool{
		"mesh": true, "traefik.mesh": true, "m-1.example.org": true,
		"": false, ".": false, "mesh.": false, "Mesh": false, "a..b": false, "-mesh": false, "mesh-": false, "me_sh": false, "me sh": false,
		"cluster.local": false, "local": false, "svc.cluster.local": false, "10.in-addr.arpa": false, "arpa": false,
		strings.Repeat("a", 64): false, strings.Repeat("a.", 110) + "a": false, "notcluster.local": true,
	} {
		if err := ValidZone(zone, "cluster.local."); (err == nil) != ok {
			t.Errorf("%q: got %v", zone, err)
		}
	}
	if got := Hijack("traefik.mesh"); got != "mesh" {
		t.Errorf("Hijack: %q", got)
	}
	if got := Hijack("mesh"); got != "mesh" {
		t.Errorf("Hijack: %q", got)
	}
}

func TestParseAddress(t *testing.T) {
	for key, want := range map[string]address{
		".":                {"dns", "", ""},
		".:53":             {"dns", "", "53"},
		"dns://.:1053":     {"dns", "", "1053"},
		"tls://Example.":   {"tls", "example", ""},
		"MESH:53":          {"dns", "mesh", "53"},
		"10.0.0.0/8":       {"dns", "10.0.0.0/8", ""},
		"2001:db8::/32":    {"dns", "2001:db8::/32", ""},
		"https://a.b.:443": {"https", "a.b", "443"},
	} {
		if got := parseAddress(key); got != want {
			t.Errorf("%s: got %v, want %v", key, got, want)
		}
	}
}

func TestWorkloadNames(t *testing.T) {
	for image, want := range map[string]string{
		"coredns":                             "coredns",
		"registry.k8s.io/coredns/coredns:v1":  "coredns",
		"reg:5000/a/eks-coredns@sha256:0a1b":  "eks-coredns",
		"reg:5000/a/coredns:v1@sha256:0a1b2c": "coredns",
	} {
		if got := imageName(image); got != want {
			t.Errorf("%s: got %s, want %s", image, got, want)
		}
	}
}

func TestListedKey(t *testing.T) {
	w := Workload{Kind: "Deployment", Namespace: "kube-system", Name: "dns", Labels: map[string]string{"k8s-app": "kube-dns"}}
	w.Spec.Containers = []corev1.Container{{Image: "coredns"}}
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "made-by-init"}, Data: map[string]string{"template": plain}}
	c := Cluster{Workloads: []Workload{w}, ConfigMaps: []*corev1.ConfigMap{cm}, Listed: []Place{{Namespace: "kube-system", Name: "made-by-init"}}}
	if _, err := Detect(c); err == nil {
		t.Error("nothing says which key is the Corefile")
	}
	c.Listed[0].Key = "template"
	got, err := Detect(c)
	if err != nil || len(got) != 1 || got[0].Place != c.Listed[0] || got[0].Kind != Corefile {
		t.Errorf("got %v, %v", got, err)
	}
}
