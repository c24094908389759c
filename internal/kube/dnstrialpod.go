package kube

import (
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/corefile"
)

// trialLifetime ends a trial's pod that nobody removes, in seconds.
const trialLifetime = 180

// trialObjects are a pod like one of the cluster's DNS, but with the object's configuration, without rights and without
// privileges, and the ConfigMap with what it mounts. It fits PodSecurity "restricted".
func (m *DNSManager) trialObjects(ctx context.Context, k *kept, o dnsObject) (*corev1.ConfigMap, *corev1.Pod, error) {
	spec, c := &k.target.Workload.Spec, k.container()
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: m.config.Namespace, Name: trialName, Labels: dnsLabels("dns-trial")}, Data: map[string]string{}}
	pod := &corev1.Pod{ObjectMeta: *cm.ObjectMeta.DeepCopy()}
	var mounts []corev1.VolumeMount
	for _, mount := range c.VolumeMounts {
		v := volume(spec, mount.Name)
		if v == nil || v.ConfigMap == nil && v.EmptyDir == nil {
			continue // Secrets and the host's files stay where they are
		}
		copied := corev1.Volume{Name: v.Name, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}
		if v.ConfigMap != nil {
			data, err := m.mounted(ctx, k, o, v.ConfigMap.Name)
			if err != nil {
				return nil, nil, err
			}
			if items := addFiles(cm, v.Name, data, v.ConfigMap.Items); len(items) > 0 {
				copied.VolumeSource = corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
					LocalObjectReference: corev1.LocalObjectReference{Name: trialName}, Items: items,
				}}
			}
		}
		mounts = append(mounts, mount)
		if volume(&pod.Spec, v.Name) == nil {
			pod.Spec.Volumes = append(pod.Spec.Volumes, copied)
		}
	}
	pods, err := m.config.pods(ctx, k.target)
	if err != nil {
		return nil, nil, err
	}
	fillTrial(&pod.Spec, spec, c, mounts, pods)
	return cm, pod, nil
}

func volume(spec *corev1.PodSpec, name string) *corev1.Volume {
	i := slices.IndexFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == name })
	if i < 0 {
		return nil
	}
	return &spec.Volumes[i]
}

// mounted is what a ConfigMap that the cluster's DNS mounts holds in the trial.
func (m *DNSManager) mounted(ctx context.Context, k *kept, o dnsObject, name string) (map[string]string, error) {
	cm := (*corev1.ConfigMap)(nil)
	switch name {
	case k.target.Name:
		cm = o.cm
	case k.target.Main.Name:
		cm = o.main
	default:
		place := corefile.Place{Namespace: k.target.Namespace, Name: name}
		if !slices.ContainsFunc(m.config.ConfigMaps, func(p corefile.Place) bool { return p.Namespace == place.Namespace && p.Name == name }) {
			return nil, nil
		}
		var err error
		if cm, err = m.config.configMap(ctx, place); err != nil {
			return nil, fmt.Errorf("read what the cluster's DNS mounts: %w", err)
		}
	}
	if cm == nil {
		return nil, nil
	}
	data := maps.Clone(cm.Data)
	for key, text := range data {
		data[key] = corefile.ForTrial(text)
	}
	return data, nil
}

// addFiles puts a ConfigMap's data into the trial's, under keys of their own, and returns where they are to be mounted.
func addFiles(cm *corev1.ConfigMap, volume string, data map[string]string, items []corev1.KeyToPath) []corev1.KeyToPath {
	if len(items) == 0 {
		for _, key := range slices.Sorted(maps.Keys(data)) {
			items = append(items, corev1.KeyToPath{Key: key, Path: key})
		}
	}
	var out []corev1.KeyToPath
	for _, i := range items {
		if text, ok := data[i.Key]; ok {
			cm.Data[volume+"."+i.Key] = text
			out = append(out, corev1.KeyToPath{Key: volume + "." + i.Key, Path: i.Path})
		}
	}
	return out
}

// fillTrial makes the pod's spec: what decides how CoreDNS starts is the workload's, everything else is as harmless as it
// can be.
func fillTrial(out, spec *corev1.PodSpec, c *corev1.Container, mounts []corev1.VolumeMount, pods []*corev1.Pod) {
	*out = corev1.PodSpec{
		Volumes: out.Volumes, RestartPolicy: corev1.RestartPolicyNever, DNSPolicy: spec.DNSPolicy, DNSConfig: spec.DNSConfig,
		Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}}, EnableServiceLinks: new(false),
		ActiveDeadlineSeconds: new(int64(trialLifetime)), TerminationGracePeriodSeconds: new(int64(0)),
		// The plugin `kubernetes` needs a token to start, and no rights.
		ServiceAccountName: "default", AutomountServiceAccountToken: new(true),
		SecurityContext: &corev1.PodSecurityContext{
			RunAsNonRoot: new(true), RunAsUser: new(int64(65532)), RunAsGroup: new(int64(65532)),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			Sysctls:        []corev1.Sysctl{{Name: "net.ipv4.ip_unprivileged_port_start", Value: "0"}},
		},
	}
	if out.DNSPolicy == corev1.DNSClusterFirstWithHostNet {
		out.DNSPolicy = corev1.DNSClusterFirst
	}
	var nodes []string
	for _, p := range pods {
		if p.Spec.NodeName != "" && !slices.Contains(nodes, p.Spec.NodeName) {
			nodes = append(nodes, p.Spec.NodeName)
		}
	}
	if len(nodes) > 0 { // they have the image
		term := corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: nodes[:1]}}}
		out.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{}}}
		terms := &out.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
		for _, n := range nodes {
			t := term.DeepCopy()
			t.MatchFields[0].Values = []string{n} // metadata.name takes one value; terms are ORed
			*terms = append(*terms, *t)
		}
	}
	pull := corev1.PullIfNotPresent
	if c.ImagePullPolicy == corev1.PullNever {
		pull = corev1.PullNever
	}
	out.Containers = []corev1.Container{{
		Name: "dns", Image: c.Image, ImagePullPolicy: pull, Command: c.Command, Args: c.Args, WorkingDir: c.WorkingDir,
		Env: harmless(c.Env), VolumeMounts: mounts, TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("32Mi")},
			Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("256Mi")},
		},
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: new(false), ReadOnlyRootFilesystem: new(true),
			// The binary carries NET_BIND_SERVICE as a file capability: without it in the bounding set it does not start.
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"NET_BIND_SERVICE"}},
		},
	}}
}

// harmless keeps the variables that name no Secret or ConfigMap of the other namespace, each once: the last one counts, and
// server-side apply takes no more.
func harmless(env []corev1.EnvVar) []corev1.EnvVar {
	var out []corev1.EnvVar
	for _, e := range env {
		if e.ValueFrom == nil || e.ValueFrom.FieldRef != nil {
			out = slices.DeleteFunc(out, func(o corev1.EnvVar) bool { return o.Name == e.Name })
			out = append(out, e)
		}
	}
	return out
}
