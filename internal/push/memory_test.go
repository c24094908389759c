package push

import (
	"runtime"
	"slices"
	"testing"
	"time"
)

// What config once was is forgotten, by the server and by its clients.
func TestOldConfigIsForgotten(t *testing.T) {
	ca := newCA(t)
	s := serve(t, ca)
	common := config(t, 1000, 0)
	s.Publish(common, nil)
	c := &clock{}
	n := run(t, ca, s.addr, "p0", func(config *ClientConfig) { config.Applier = c })
	wait(t, "synced", n.Synced())
	change := func(i int) {
		changed := resource(t, "shop/web-0", endpoints("web-0", uint32(i)))
		common = slices.Clone(common)
		common[1] = changed
		done := make(chan time.Time, 1)
		c.expect(changed.Version, done)
		s.Publish(common, nil)
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Fatalf("change %d did not arrive", i)
		}
	}
	change(1)
	before := heap()
	for i := range 100 {
		change(i + 2)
	}
	if after := heap(); after > before+1<<20 {
		t.Errorf("%d KiB became %d with 100 changes", before>>10, after>>10)
	}
}

// heap is how much memory is in use.
func heap() uint64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}
