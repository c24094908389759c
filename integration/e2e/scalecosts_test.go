package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// costs are what the mesh took since the beginning.
type costs struct {
	cpu              float64 // seconds of the controller
	miB, peakMiB     int     // resident, of the controller
	services, slices float64 // writes that the API server took, whoever made them
	other            float64 // likewise, of the other kinds that the mesh writes
	roundMS          float64 // average
}

func (s *scale) costs(t *testing.T) costs {
	t.Helper()
	var f costs
	if s.pid != 0 {
		m := s.metrics(t)
		f.cpu, f.miB, f.peakMiB = m.sum("process_cpu_seconds_total", nil), int(m.sum("process_resident_memory_bytes", nil))>>20, s.peak(t)
		if h := m["tulle_controller_round_seconds"]; h != nil {
			sum := h.Metric[0].GetHistogram()
			f.roundMS = sum.GetSampleSum() / float64(max(1, sum.GetSampleCount())) * 1000
		}
	}
	text, err := s.cluster.Kubectl.Run(t.Context(), "get", "--raw", "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	api := parse(t, text)
	writes := func(resource string) (n float64) {
		for _, verb := range []string{"POST", "PUT", "PATCH", "APPLY", "DELETE"} {
			n += api.sum("apiserver_request_total", map[string]string{"resource": resource, "verb": verb})
		}
		return n
	}
	f.services, f.slices = writes("services"), writes("endpointslices")
	f.other = writes("configmaps") + writes("leases") + writes("events") + writes("secrets")
	return f
}

func parse(t *testing.T, text string) metrics {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	m, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// metrics are the controller's.
func (s *scale) metrics(t *testing.T) metrics {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
		return s.cluster.DialIn(ctx, "cp", addr)
	}}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/metrics", controllerMetricsPort), nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatalf("metrics of the controller: %v", err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("metrics of the controller: %v", err)
	}
	return parse(t, string(b))
}

// peak is the most memory that the controller ever had, in MiB.
func (s *scale) peak(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmHWM:" {
			kb, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return kb >> 10
		}
	}
	t.Fatalf("no VmHWM in %s", b)
	return 0
}

func quantile(ds []time.Duration, q float64) time.Duration {
	s := slices.Sorted(slices.Values(ds))
	return s[min(len(s)-1, int(q*float64(len(s))))]
}

// spread is a distribution in words.
func spread(ds []time.Duration) string {
	ms := func(d time.Duration) string {
		if d < 10*time.Second {
			return fmt.Sprintf("%d ms", d.Milliseconds())
		}
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return fmt.Sprintf("%s (p50), %s (p95), %s (most)", ms(quantile(ds, .5)), ms(quantile(ds, .95)), ms(slices.Max(ds)))
}
