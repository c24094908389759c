// Package bugreport collects what helps to find a fault of the mesh into an archive: its objects, status, logs, metrics
// and checks, and the SMI objects and Services that it works on. It reads no Secret, and takes out of the rest what looks
// like one. Its functions run on the caller's goroutine.
package bugreport

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tulle-mesh/tulle/internal/check"
	"github.com/tulle-mesh/tulle/internal/install"
	"github.com/tulle-mesh/tulle/internal/version"
)

// Collector collects about one mesh.
type Collector struct {
	Cluster   *install.Cluster
	Namespace string
	Report    check.Report
	Time      time.Time // of the report
	LogLines  int64     // of each container; default 20,000
}

// archive is a report that is being written. What can't be collected is noted in it instead.
type archive struct {
	tar     *tar.Writer
	time    time.Time
	secrets secrets
	missing bytes.Buffer
}

// Write writes the report as a tar.gz. It fails only if w does: what can't be read is listed in the archive.
func (c *Collector) Write(ctx context.Context, w io.Writer) error {
	z := gzip.NewWriter(w)
	a := &archive{tar: tar.NewWriter(z), time: c.Time, secrets: newSecrets()}
	for _, part := range []func(context.Context, *archive) error{c.summary, c.objects, c.pods} {
		if err := part(ctx, a); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
	}
	if err := a.add("missing.txt", a.missing.Bytes()); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if err := a.tar.Close(); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if err := z.Close(); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

func (c *Collector) summary(_ context.Context, a *archive) error {
	kube, err := c.Cluster.KubeVersion()
	if err != nil {
		a.lacks("version of the cluster", err)
	}
	if err := a.json("version.json", map[string]string{"tulle": version.Version, "kubernetes": kube, "namespace": c.Namespace}); err != nil {
		return err
	}
	return a.json("check.json", c.Report)
}

// kinds are what is collected: of the mesh's namespace, or of all if there is none.
func (c *Collector) kinds() []struct{ version, resource, namespace string } {
	all, mesh := metav1.NamespaceAll, c.Namespace
	return []struct{ version, resource, namespace string }{
		{"v1", "nodes", all},
		{"v1", "namespaces", all},
		{"v1", "services", all},
		{"discovery.k8s.io/v1", "endpointslices", all},
		{"networking.k8s.io/v1", "networkpolicies", all},
		{"apps/v1", "deployments", mesh},
		{"apps/v1", "daemonsets", mesh},
		{"v1", "pods", mesh},
		{"v1", "configmaps", mesh},
		{"v1", "events", mesh},
		{"coordination.k8s.io/v1", "leases", mesh},
		{"apiextensions.k8s.io/v1", "customresourcedefinitions", all},
		{"split.smi-spec.io/v1alpha4", "trafficsplits", all},
		{"specs.smi-spec.io/v1alpha4", "httproutegroups", all},
		{"specs.smi-spec.io/v1alpha4", "tcproutes", all},
		{"specs.smi-spec.io/v1alpha4", "udproutes", all},
		{"access.smi-spec.io/v1alpha3", "traffictargets", all},
	}
}

func (c *Collector) objects(ctx context.Context, a *archive) error {
	for _, k := range c.kinds() {
		gv, err := schema.ParseGroupVersion(k.version)
		if err != nil {
			return err
		}
		list, err := c.Cluster.Dynamic.Resource(gv.WithResource(k.resource)).Namespace(k.namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			a.lacks(k.resource, err)
			continue
		}
		var out bytes.Buffer
		for _, o := range list.Items {
			if k.resource == "customresourcedefinitions" && !smi(o.GetName()) {
				continue
			}
			a.secrets.object(&o)
			if err := install.Encode(&out, &o); err != nil {
				return err
			}
		}
		if err := a.add("objects/"+k.resource+".yaml", out.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// pods adds logs of all, and what the proxies tell about themselves.
func (c *Collector) pods(ctx context.Context, a *archive) error {
	list, err := c.Cluster.Kube.CoreV1().Pods(c.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=tulle"})
	if err != nil {
		a.lacks("pods", err)
		return nil
	}
	for _, p := range list.Items {
		if err := c.logs(ctx, a, &p); err != nil {
			return err
		}
		ports := map[string]int{"metrics": 15014}
		if p.Labels["app.kubernetes.io/component"] == "proxy" {
			ports = map[string]int{"metrics": 15020, "config": 15000, "status": 15000}
		}
		for _, path := range []string{"metrics", "status", "config"} {
			if ports[path] == 0 || p.Status.Phase != corev1.PodRunning {
				continue
			}
			data, err := c.Cluster.PodGet(ctx, c.Namespace, p.Name, ports[path], "/"+path)
			if err != nil {
				a.lacks(path+" of pod "+p.Name, err)
				continue
			}
			if err := a.text("pods/"+p.Name+"/"+path+".txt", data); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Collector) logs(ctx context.Context, a *archive, p *corev1.Pod) error {
	lines := c.LogLines
	if lines == 0 {
		lines = 20_000
	}
	for _, s := range p.Status.ContainerStatuses {
		for _, previous := range []bool{false, true} {
			if previous && s.RestartCount == 0 {
				continue
			}
			name := "log"
			if previous {
				name = "log-previous"
			}
			data, err := c.Cluster.Kube.CoreV1().Pods(c.Namespace).GetLogs(p.Name, &corev1.PodLogOptions{Container: s.Name, Previous: previous, TailLines: &lines}).DoRaw(ctx)
			if err != nil {
				a.lacks(name+" of pod "+p.Name, err)
				continue
			}
			if err := a.text("pods/"+p.Name+"/"+name+".txt", data); err != nil {
				return err
			}
		}
	}
	return nil
}

// lacks notes what could not be collected.
func (a *archive) lacks(what string, err error) { fmt.Fprintf(&a.missing, "%s: %v\n", what, err) }

// text adds a file without the secrets that it may hold.
func (a *archive) text(name string, data []byte) error {
	return a.add(name, []byte(a.secrets.text(string(data))))
}

func (a *archive) json(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return a.text(name, data)
}

func (a *archive) add(name string, data []byte) error {
	h := &tar.Header{Name: "tulle-bugreport/" + name, Mode: 0o600, Size: int64(len(data)), ModTime: a.time}
	if err := a.tar.WriteHeader(h); err != nil {
		return err
	}
	_, err := a.tar.Write(data)
	return err
}

func smi(name string) bool {
	return len(name) > 11 && name[len(name)-11:] == "smi-spec.io"
}
