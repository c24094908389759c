package install

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const metricsPort = 15020

// Usage is what the proxies counted since they started.
type Usage struct {
	Calls   map[string]float64 // requests, connections and flows by source workload, "namespace/workload"
	Open    map[string]float64 // TCP connections that are open now, by source workload
	Lookups float64            // mesh names that were asked for, but for the mesh's own probes
}

// Usage sums up what all proxies counted.
func (i *Installer) usage(ctx context.Context) (Usage, error) {
	sum := Usage{Calls: map[string]float64{}, Open: map[string]float64{}}
	pods, err := i.Cluster.Kube.CoreV1().Pods(i.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector("proxy")})
	if err != nil {
		return sum, Explain(fmt.Errorf("list the proxies: %w", err))
	}
	for _, p := range pods.Items {
		if p.Status.Phase != corev1.PodRunning {
			continue
		}
		data, err := i.Cluster.PodGet(ctx, i.Namespace, p.Name, metricsPort, "/metrics")
		if err != nil {
			return sum, err
		}
		if err := sum.add(data); err != nil {
			return sum, fmt.Errorf("read the metrics of pod %s/%s: %w", i.Namespace, p.Name, err)
		}
	}
	return sum, nil
}

func (u *Usage) add(metrics []byte) error {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(metrics))
	if err != nil {
		return err
	}
	each := func(name string, f func(labels map[string]string, value float64)) {
		for _, m := range families[name].GetMetric() {
			f(labelsOf(m), m.GetCounter().GetValue()+m.GetGauge().GetValue()+m.GetUntyped().GetValue())
		}
	}
	for _, name := range []string{"tulle_proxy_requests_total", "tulle_proxy_tcp_connections_total", "tulle_proxy_udp_flows_total"} {
		each(name, func(l map[string]string, v float64) { u.Calls[l["source_namespace"]+"/"+l["source_workload"]] += v })
	}
	each("tulle_proxy_tcp_connections", func(l map[string]string, v float64) {
		if v > 0 {
			u.Open[l["source_namespace"]+"/"+l["source_workload"]] += v
		}
	})
	each("tulle_dns_responses_total", func(l map[string]string, v float64) {
		if l["type"] != "other" && l["rcode"] == "NOERROR" {
			u.Lookups += v
		}
	})
	return nil
}

// since says what happened between two readings, in words; empty if nothing did.
func (u Usage) since(before Usage) string {
	var said []string
	for _, source := range slices.Sorted(maps.Keys(u.Calls)) {
		if n := u.Calls[source] - before.Calls[source]; n > 0 {
			said = append(said, fmt.Sprintf("%s called %.0f times", source, n))
		}
	}
	for _, source := range slices.Sorted(maps.Keys(u.Open)) {
		said = append(said, fmt.Sprintf("%s has %.0f open connections", source, u.Open[source]))
	}
	if n := u.Lookups - before.Lookups; n > 0 {
		said = append(said, fmt.Sprintf("mesh names were looked up %.0f times", n))
	}
	return strings.Join(said, "; ")
}

func labelsOf(m *dto.Metric) map[string]string {
	out := map[string]string{}
	for _, l := range m.GetLabel() {
		out[l.GetName()] = l.GetValue()
	}
	return out
}

// selector selects the pods of a component.
func selector(component string) string {
	return "app.kubernetes.io/name=tulle,app.kubernetes.io/component=" + component
}
