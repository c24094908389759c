package corefile

import (
	"path"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// FromDeployment makes a Workload.
func FromDeployment(d *appsv1.Deployment) Workload {
	return Workload{
		Kind: "Deployment", Namespace: d.Namespace, Name: d.Name, Selector: matchLabels(d.Spec.Selector),
		Labels: d.Spec.Template.Labels, Spec: d.Spec.Template.Spec, Idle: d.Spec.Replicas != nil && *d.Spec.Replicas == 0,
	}
}

// FromDaemonSet makes a Workload.
func FromDaemonSet(d *appsv1.DaemonSet) Workload {
	return Workload{
		Kind: "DaemonSet", Namespace: d.Namespace, Name: d.Name, Selector: matchLabels(d.Spec.Selector),
		Labels: d.Spec.Template.Labels, Spec: d.Spec.Template.Spec,
	}
}

func matchLabels(s *metav1.LabelSelector) map[string]string {
	if s == nil {
		return nil
	}
	return s.MatchLabels
}

// software says what a workload's images are called: Corefile for CoreDNS, KubeDNS, NodeCache, or "". Tags and digests
// don't matter.
func (w Workload) software() Kind {
	for _, c := range w.Spec.Containers {
		switch name := imageName(c.Image); {
		case strings.Contains(name, "node-cache"):
			return NodeCache
		case strings.Contains(name, "coredns"):
			return Corefile
		case strings.Contains(name, "kube-dns"):
			return KubeDNS
		}
	}
	return ""
}

// imageName is the last part of an image's repository.
func imageName(image string) string {
	image, _, _ = strings.Cut(image, "@")
	image = image[strings.LastIndexByte(image, '/')+1:]
	image, _, _ = strings.Cut(image, ":")
	return image
}

// looksLikeCoreDNS is for images of any name: one that is started with a Corefile from a ConfigMap.
func (c Cluster) looksLikeCoreDNS(w Workload) bool {
	_, _, ok := c.corefileOf(w)
	return ok
}

// mount is a ConfigMap as a container sees it.
type mount struct {
	container int
	name      string            // of the ConfigMap
	path      string            // where it is mounted
	file      string            // the one file of it (subPath), else ""
	items     map[string]string // path -> key; empty = all keys by their name
}

func (w Workload) mounts() []mount {
	var out []mount
	for i, c := range w.Spec.Containers {
		for _, m := range c.VolumeMounts {
			for _, v := range w.Spec.Volumes {
				if v.Name != m.Name {
					continue
				}
				for _, s := range configMapsOf(v) {
					s.container, s.path, s.file = i, path.Clean(m.MountPath), m.SubPath
					out = append(out, s)
				}
			}
		}
	}
	return out
}

func configMapsOf(v corev1.Volume) []mount {
	switch {
	case v.ConfigMap != nil:
		return []mount{{name: v.ConfigMap.Name, items: itemsOf(v.ConfigMap.Items)}}
	case v.Projected != nil:
		var out []mount
		for _, s := range v.Projected.Sources {
			if s.ConfigMap != nil {
				out = append(out, mount{name: s.ConfigMap.Name, items: itemsOf(s.ConfigMap.Items)})
			}
		}
		return out
	}
	return nil
}

func itemsOf(items []corev1.KeyToPath) map[string]string {
	out := map[string]string{}
	for _, i := range items {
		out[i.Path] = i.Key
	}
	return out
}

// key is the ConfigMap's key that is seen at an absolute path.
func (m mount) key(file string) (string, bool) {
	rest, ok := strings.CutPrefix(file, m.path+"/")
	switch {
	case m.file != "" && file == m.path:
		rest = m.file
	case m.file != "" || !ok:
		return "", false
	}
	if len(m.items) == 0 {
		return rest, !strings.Contains(rest, "/")
	}
	key, ok := m.items[rest]
	return key, ok
}

// corefileOf finds the ConfigMap with a workload's Corefile, and the directory that its imports are relative to: by the
// argument -conf, by a key called Corefile, or else by a key that the user gave.
func (c Cluster) corefileOf(w Workload) (Place, string, bool) {
	mounts := w.mounts()
	for _, m := range mounts {
		if conf, ok := argument(w.Spec.Containers[m.container], "conf"); ok {
			if key, ok := m.key(conf); ok {
				return Place{Namespace: w.Namespace, Name: m.name, Key: key}, path.Dir(conf), true
			}
		}
	}
	for _, m := range mounts {
		place := Place{Namespace: w.Namespace, Name: m.name, Key: "Corefile"}
		for _, key := range m.items {
			if key == place.Key {
				return place, m.path, true
			}
		}
		if len(m.items) == 0 && c.text(place) != "" {
			return place, m.path, true
		}
	}
	for _, l := range c.Listed {
		if l.Key != "" && l.Namespace == w.Namespace && c.text(l) != "" {
			return l, "/", true
		}
	}
	return Place{}, "", false
}

// argument reads -name value, -name=value and the same with two dashes.
func argument(c corev1.Container, name string) (string, bool) {
	args := slices.Concat(c.Command, c.Args)
	for i, a := range args {
		flag, value, has := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(a, "-"), "-"), "=")
		switch {
		case flag != name || !strings.HasPrefix(a, "-"):
		case has:
			return value, true
		case i+1 < len(args):
			return args[i+1], true
		}
	}
	return "", false
}

// port is the one on which a workload's pods answer for the root zone.
func (c Cluster) port(w Workload, place Place) int32 {
	ports := []string{}
	if listeners, err := Listeners(c.text(place)); err == nil {
		for _, l := range listeners {
			ports = append(ports, l.Port)
		}
	}
	for _, c := range w.Spec.Containers {
		for _, name := range []string{"dns.port", "p"} {
			if v, ok := argument(c, name); ok {
				ports = append(ports, v)
			}
		}
	}
	for _, p := range ports {
		if n, err := strconv.ParseUint(p, 10, 16); err == nil && n > 0 {
			return int32(n)
		}
	}
	return 53
}
