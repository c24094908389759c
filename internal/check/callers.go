package check

import (
	"context"
	"fmt"

	dto "github.com/prometheus/client_model/go"
)

// counted says who called since the proxies started: a proxy knows the pods of its node by their addresses, and counts
// anybody else as unknown. It says nothing before the first call.
func (m *mesh) counted(ctx context.Context) ([]Finding, error) {
	known, strangers := make([]float64, len(m.pods)), make([]float64, len(m.pods))
	if err := m.metrics(ctx, func(i int, families map[string]*dto.MetricFamily) {
		known[i], strangers[i] = callers(families)
	}); err != nil {
		return nil, err
	}
	from, others := sum(known), sum(strangers)
	switch {
	case from+others == 0:
		return nil, nil
	case others == 0:
		return []Finding{{Level: OK, Message: fmt.Sprintf("all of %.0f calls so far came from pods of the proxy's own node", from)}}, nil
	}
	return []Finding{{
		Level:   Note,
		Message: fmt.Sprintf("%.0f of %.0f calls so far came from none of the own node's pods", others, from+others),
		Next:    "callers in the host's network and from outside are none; some calls cross nodes while a proxy is replaced: docs/runbook.md, first hop",
	}}, nil
}

func sum(all []float64) float64 {
	total := 0.0
	for _, v := range all {
		total += v
	}
	return total
}

// callers counts requests, connections and flows of known and of unknown sources.
func callers(families map[string]*dto.MetricFamily) (known, strangers float64) {
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
	return known, strangers
}
