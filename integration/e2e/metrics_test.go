package e2e

import (
	"maps"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

const (
	proxyMetricsPort      = 15020
	controllerMetricsPort = 15014
)

// metrics of one pod, by name.
type metrics map[string]*dto.MetricFamily

func (e *env) metrics(t *testing.T, p pod, port int) metrics {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	m, err := parser.TextToMetricFamilies(strings.NewReader(e.httpGet(t, p, port, "/metrics", false)))
	if err != nil {
		t.Fatalf("metrics of %s: %v", p.name, err)
	}
	return m
}

// sum adds up the samples of a counter or gauge (of a histogram, its count) that have all of the labels.
func (m metrics) sum(name string, labels map[string]string) float64 {
	family, ok := m[name]
	if !ok {
		return 0
	}
	total := 0.0
	for _, sample := range family.Metric {
		have := map[string]string{}
		for _, l := range sample.Label {
			have[l.GetName()] = l.GetValue()
		}
		want := maps.Clone(have)
		maps.Copy(want, labels)
		if maps.Equal(have, want) {
			total += sample.GetCounter().GetValue() + sample.GetGauge().GetValue() + float64(sample.GetHistogram().GetSampleCount())
		}
	}
	return total
}
