package push

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

// clock is an Applier that notes when it applied a config that holds the wanted version of a resource.
type clock struct {
	mu   sync.Mutex
	want string
	done chan<- time.Time
}

func (c *clock) expect(version string, done chan<- time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.want, c.done = version, done
}

func (c *clock) Apply(u configv1.Update) []configv1.Refusal {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done != nil && slices.ContainsFunc(u.Set, func(r configv1.Resource) bool { return r.Version == c.want }) {
		c.done <- time.Now()
	}
	return nil
}

// BenchmarkChange measures the time from Publish until clients have applied a change of one resource, all of them on
// this machine: p50 and max over the clients, on average.
func BenchmarkChange(b *testing.B) {
	for _, size := range []struct{ proxies, services int }{{1, 1000}, {200, 1000}, {200, 5000}} {
		b.Run(fmt.Sprintf("proxies=%d/services=%d", size.proxies, size.services), func(b *testing.B) {
			benchmarkChange(b, size.proxies, size.services)
		})
	}
}

func benchmarkChange(b *testing.B, proxies, services int) {
	ca := newCA(b)
	s := serve(b, ca)
	common := config(b, services, 0)
	start := time.Now()
	s.Publish(common, nil)
	clocks := make([]*clock, proxies)
	nodes := make([]*node, proxies)
	for i := range nodes {
		clocks[i] = &clock{}
		nodes[i] = run(b, ca, s.addr, fmt.Sprint("p", i), func(c *ClientConfig) { c.Applier = clocks[i] })
	}
	for _, n := range nodes {
		wait(b, "synced", n.Synced())
	}
	full := time.Since(start)
	var p50, slowest time.Duration
	rev := uint32(0)
	for b.Loop() {
		rev++
		changed := resource(b, "shop/web-0", endpoints("web-0", rev))
		common = slices.Clone(common)
		common[1] = changed
		done := make(chan time.Time, proxies)
		for _, c := range clocks {
			c.expect(changed.Version, done)
		}
		at := time.Now()
		s.Publish(common, nil)
		took := make([]time.Duration, proxies)
		for i := range took {
			took[i] = (<-done).Sub(at)
		}
		slices.Sort(took)
		p50 += took[proxies/2]
		slowest += took[proxies-1]
	}
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	b.ReportMetric(ms(p50)/float64(b.N), "ms-p50")
	b.ReportMetric(ms(slowest)/float64(b.N), "ms-max")
	b.ReportMetric(ms(full), "ms-full-sync")
}

// BenchmarkPublish measures making the snapshot that follows a change of one resource.
func BenchmarkPublish(b *testing.B) {
	var snaps snapshots
	common := config(b, 5000, 0)
	own := map[string][]configv1.Resource{}
	for i := range 500 {
		own[fmt.Sprint("p", i)] = proxyFor(b, fmt.Sprint("p", i), true)
	}
	slices.SortFunc(common, func(a, b configv1.Resource) int { return a.Compare(b.Key) })
	snaps.next(b, common, own)
	rev := uint32(0)
	for b.Loop() {
		rev++
		i := 1 + int(rev)%5000
		common[i] = resource(b, common[i].Name, endpoints("web-0", rev))
		snaps.next(b, common, own)
	}
}
