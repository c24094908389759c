package check

import (
	"bytes"
	"context"
	"fmt"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
)

// metrics reads what the proxies that run say, several at a time: read is called with a pod's index.
func (m *mesh) metrics(ctx context.Context, read func(i int, families map[string]*dto.MetricFamily)) error {
	var g errgroup.Group
	g.SetLimit(askersAtOnce)
	for i, pod := range m.pods {
		if pod.Status.Phase != corev1.PodRunning || pod.DeletionTimestamp != nil {
			continue
		}
		g.Go(func() error {
			data, err := m.Cluster.PodGet(ctx, m.Namespace, pod.Name, 15020, "/metrics")
			if err != nil {
				return err
			}
			families, err := parseMetrics(data)
			if err != nil {
				return fmt.Errorf("read the metrics of pod %s: %w", pod.Name, err)
			}
			read(i, families)
			return nil
		})
	}
	return g.Wait()
}

func parseMetrics(text []byte) (map[string]*dto.MetricFamily, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(bytes.NewReader(text))
}
