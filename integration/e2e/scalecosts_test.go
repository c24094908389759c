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
	cpu          float64 // seconds of the controller
	miB, peakMiB int     // resident, of the controller
	writes       float64 // of mesh addresses by the controller, Services and slices
	apiWrites    float64 // all that the API server took of kinds that the mesh writes, whoever made them
	services     float64 // of which Services
	apiCPU       float64 // seconds of the API server
	roundMS      float64 // average
}

func (s *scale) costs(t *testing.T) costs {
	t.Helper()
	var c costs
	if s.pid != 0 {
		m := s.metrics(t)
		c.cpu, c.miB, c.peakMiB = m.sum("process_cpu_seconds_total", nil), int(m.sum("process_resident_memory_bytes", nil))>>20, s.peak(t)
		c.writes = m.sum("tulle_controller_writes_total", nil)
		if h := m["tulle_controller_round_seconds"]; h != nil {
			sum := h.Metric[0].GetHistogram()
			c.roundMS = sum.GetSampleSum() / float64(max(1, sum.GetSampleCount())) * 1000
		}
	}
	text, err := s.cluster.Kubectl.Run(t.Context(), "get", "--raw", "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	api := parse(t, text)
	c.apiCPU = api.sum("process_cpu_seconds_total", nil)
	for _, resource := range []string{"services", "endpointslices", "configmaps", "leases", "events", "secrets"} {
		for _, verb := range []string{"POST", "PUT", "PATCH", "APPLY", "DELETE"} {
			n := api.sum("apiserver_request_total", map[string]string{"resource": resource, "verb": verb})
			c.apiWrites += n
			if resource == "services" {
				c.services += n
			}
		}
	}
	return c
}

// minus is what was taken between two moments; memory is that of the later one.
func (c costs) minus(o costs) costs {
	c.cpu, c.writes, c.apiWrites, c.services, c.apiCPU = c.cpu-o.cpu, c.writes-o.writes, c.apiWrites-o.apiWrites, c.services-o.services, c.apiCPU-o.apiCPU
	return c
}

// per is what one of n took.
func (c costs) per(n int) costs {
	f := float64(n)
	c.cpu, c.writes, c.apiWrites, c.services, c.apiCPU = c.cpu/f, c.writes/f, c.apiWrites/f, c.services/f, c.apiCPU/f
	return c
}

func (c costs) String() string {
	return fmt.Sprintf("%.0f writes of mesh addresses, %.0f of anything else; CPU of the controller %.2f s, of the API server %.2f s; the controller has %d MiB, at most %d",
		c.writes, c.apiWrites-c.writes, c.cpu, c.apiCPU, c.miB, c.peakMiB)
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
