package meter

import (
	"cmp"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// tenantCollector reads what namespaces use when it is asked for.
type tenantCollector struct {
	tenants                              Tenants
	connections, requests, bytes, waited *prometheus.Desc
}

func newTenantCollector(t Tenants) *tenantCollector {
	labels := []string{"source_namespace"}
	return &tenantCollector{
		tenants:     t,
		connections: prometheus.NewDesc(prefix+"tenant_connections", "Open connections of clients.", labels, nil),
		requests:    prometheus.NewDesc(prefix+"tenant_requests", "HTTP requests under way.", labels, nil),
		bytes:       prometheus.NewDesc(prefix+"tenant_buffered_bytes", "Bytes of HTTP/2 bodies that may be buffered.", labels, nil),
		waited:      prometheus.NewDesc(prefix+"tenant_wait_seconds_total", "How long HTTP requests have waited for their namespace's turn.", labels, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *tenantCollector) Describe(out chan<- *prometheus.Desc) {
	out <- c.connections
	out <- c.requests
	out <- c.bytes
	out <- c.waited
}

// Collect implements prometheus.Collector.
func (c *tenantCollector) Collect(out chan<- prometheus.Metric) {
	c.tenants.EachTenant(func(namespace string, connections, requests, bytes int64) {
		namespace = cmp.Or(namespace, unknown)
		out <- prometheus.MustNewConstMetric(c.connections, prometheus.GaugeValue, float64(connections), namespace)
		out <- prometheus.MustNewConstMetric(c.requests, prometheus.GaugeValue, float64(requests), namespace)
		out <- prometheus.MustNewConstMetric(c.bytes, prometheus.GaugeValue, float64(bytes), namespace)
	})
	c.tenants.EachWait(func(namespace string, waited time.Duration) {
		out <- prometheus.MustNewConstMetric(c.waited, prometheus.CounterValue, waited.Seconds(), cmp.Or(namespace, unknown))
	})
}
