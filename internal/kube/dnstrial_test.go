package kube

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/corefile"
)

func nodeCache(d *appsv1.Deployment) *appsv1.DaemonSet {
	labels := map[string]string{"k8s-app": "node-local-dns"}
	spec := d.Spec.Template.Spec.DeepCopy()
	spec.HostNetwork = true
	spec.Containers[0].Image, spec.Containers[0].Args = "registry.k8s.io/dns/k8s-dns-node-cache:1.26", []string{"-conf", "/etc/Corefile"}
	spec.Volumes[0].ConfigMap.Name = "node-local-dns"
	spec.Volumes[0].ConfigMap.Items[0].Path = "Corefile.base"
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "node-local-dns"},
		Spec: appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: *spec,
		}},
	}
}

// TestTrialPod has a workload with everything that a trial must not take over.
func TestTrialPod(t *testing.T) {
	s := newSim(t, map[string]string{"Corefile": ".:53 {\n    bind 10.0.0.1\n    reload\n}\n", "hosts": "10.0.0.1 n1\n"})
	d, err := s.client.AppsV1().Deployments("kube-system").Get(t.Context(), "coredns", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	spec := &d.Spec.Template.Spec
	spec.HostNetwork, spec.ServiceAccountName, spec.PriorityClassName = true, "coredns", "system-cluster-critical"
	spec.Volumes[0].ConfigMap.Items = append(spec.Volumes[0].ConfigMap.Items, corev1.KeyToPath{Key: "hosts", Path: "NodeHosts"}, corev1.KeyToPath{Key: "gone", Path: "gone"})
	spec.Volumes = append(spec.Volumes,
		corev1.Volume{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "keys"}}},
		corev1.Volume{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/etc"}}},
		corev1.Volume{Name: "foreign", VolumeSource: configMapVolume("not-listed", "")},
	)
	c := &spec.Containers[0]
	for _, v := range []string{"secret", "host", "foreign"} {
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: v, MountPath: "/" + v})
	}
	c.Env = []corev1.EnvVar{
		{Name: "A", Value: "0"},
		{Name: "A", Value: "1"},
		{Name: "IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
		{Name: "KEY", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{Key: "k"}}},
	}
	c.SecurityContext = &corev1.SecurityContext{Privileged: new(true)}
	spec.Containers = append([]corev1.Container{{Name: "sidecar", Image: "proxy"}}, spec.Containers...)

	m := NewDNSManager(DNSConfig{DNSAccess: s.access(), Zones: []string{"mesh"}})
	k := &kept{target: corefile.Target{
		Kind: corefile.Corefile, Place: corefile.Place{Namespace: "kube-system", Name: "coredns", Key: "Corefile"},
		Main: corefile.Place{Namespace: "kube-system", Name: "coredns", Key: "Corefile"}, Workload: corefile.FromDeployment(d),
	}}
	object, err := m.config.read(t.Context(), k.target)
	if err != nil {
		t.Fatal(err)
	}
	cm, pod, err := m.trialObjects(t.Context(), k, object)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"config.Corefile": ".:53 {\n    reload\n}\n", "config.hosts": "10.0.0.1 n1\n"}
	if diff := cmp.Diff(want, cm.Data); diff != "" {
		t.Errorf("ConfigMap (-want +got):\n%s", diff)
	}
	p := pod.Spec
	if p.HostNetwork || p.ServiceAccountName != "default" || p.PriorityClassName != "" || p.RestartPolicy != corev1.RestartPolicyNever || *p.ActiveDeadlineSeconds == 0 {
		t.Errorf("pod: %+v", p)
	}
	if pod.Labels[component] != "dns-trial" {
		t.Errorf("it is taken for another component: %v", pod.Labels)
	}
	if len(p.Volumes) != 2 || len(p.Containers) != 1 || p.Volumes[0].ConfigMap.Name != trialName || p.Volumes[1].EmptyDir == nil {
		t.Fatalf("volumes: %+v", p.Volumes)
	}
	if items := p.Volumes[0].ConfigMap.Items; len(items) != 2 || items[1].Path != "NodeHosts" || items[1].Key != "config.hosts" {
		t.Errorf("files: %+v", items)
	}
	got := p.Containers[0]
	if got.Image != c.Image || len(got.VolumeMounts) != 2 || len(got.Env) != 2 || got.Env[0].Value != "1" || got.SecurityContext.Privileged != nil || *got.SecurityContext.AllowPrivilegeEscalation {
		t.Errorf("container: %+v", got)
	}
	nodes := p.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	if len(nodes) != 1 || nodes[0].MatchFields[0].Values[0] != "n1" {
		t.Errorf("nodes: %+v", nodes)
	}
}

func TestLastWords(t *testing.T) {
	for log, want := range map[string]string{
		"": "", "boom\n": "boom",
		"/etc/coredns/Corefile:19 - Error during parsing: Unknown directive 'x'\nmaxprocs: Leaving GOMAXPROCS=2": "/etc/coredns/Corefile:19 - Error during parsing: Unknown directive 'x'",
		"plugin/cache: unknown property\n.:53":  "plugin/cache: unknown property",
		"[INFO] plugin/reload: Running\nkilled": "killed",
	} {
		if got := lastWords(log); got != want {
			t.Errorf("%q: got %q, want %q", log, got, want)
		}
	}
}
