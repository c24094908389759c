package check

import (
	"bytes"
	"context"
	"fmt"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	corev1 "k8s.io/api/core/v1"
)

// firstHop says from what the proxies counted whether calls enter the mesh on the client's own node with the client's own
// address: a proxy knows the pods of its node by their addresses, and counts anybody else as unknown.
func (m *mesh) firstHop(ctx context.Context) ([]Finding, error) {
	known, strangers := 0.0, 0.0
	for _, pod := range m.pods {
		if pod.Status.Phase != corev1.PodRunning || pod.DeletionTimestamp != nil {
			continue
		}
		data, err := m.Cluster.PodGet(ctx, m.Namespace, pod.Name, 15020, "/metrics")
		if err != nil {
			return nil, err
		}
		k, s, err := callers(data)
		if err != nil {
			return nil, fmt.Errorf("read the metrics of pod %s: %w", pod.Name, err)
		}
		known, strangers = known+k, strangers+s
	}
	total := known + strangers
	switch {
	case total == 0:
		return []Finding{{Level: Note, Message: "no calls yet: whether they stay on the client's node isn't known"}}, nil
	case strangers == 0:
		return []Finding{{Level: OK, Message: fmt.Sprintf("all of %.0f calls came from pods of the proxy's own node", total)}}, nil
	case strangers > total/2:
		return []Finding{{
			Level:   Failed,
			Message: fmt.Sprintf("%.0f of %.0f calls came from none of the own node's pods", strangers, total),
			Next:    "they crossed nodes, or the network hides the clients' addresses, or they came from pods in the host's network: docs/runbook.md, first hop",
		}}, nil
	}
	return []Finding{{Level: Note, Message: fmt.Sprintf("%.0f of %.0f calls came from none of the own node's pods", strangers, total), Next: "they crossed nodes (some do while a proxy is replaced), the network hides their addresses, or they came from the host's network: docs/runbook.md, first hop"}}, nil
}

// callers counts requests, connections and flows of known and of unknown sources.
func callers(metrics []byte) (known, strangers float64, _ error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(metrics))
	if err != nil {
		return 0, 0, err
	}
	for _, name := range []string{"tulle_proxy_requests_total", "tulle_proxy_tcp_connections_total", "tulle_proxy_udp_flows_total"} {
		for _, metric := range families[name].GetMetric() {
			n := metric.GetCounter().GetValue()
			for _, l := range metric.GetLabel() {
				if l.GetName() != "source_workload" {
					continue
				}
				if l.GetValue() == "unknown" {
					strangers += n
				} else {
					known += n
				}
			}
		}
	}
	return known, strangers, nil
}
