package e2e

import (
	"os"
	"sync"
	"testing"

	"github.com/tulle-mesh/tulle/integration/cluster"
)

func TestMain(m *testing.M) {
	cluster.MaybeChild()
	os.Exit(m.Run())
}

// TestE2E runs every suite on every cluster that it asks for. A part is chosen as usual: go test -run 'TestE2E/honest/smoke'.
func TestE2E(t *testing.T) {
	if os.Getenv(gateEnv) == "" {
		t.Skipf("e2e is skipped: set %s=1 to run it (on the embedded cluster, as root on Linux, or on the one of KUBECONFIG)", gateEnv)
	}
	built := &builds{t: t, releases: map[string]release{}}
	for _, beside := range phases() {
		var rows sync.WaitGroup
		for _, row := range beside {
			rows.Go(func() {
				for _, p := range row {
					t.Run(p.name, func(t *testing.T) { runOn(t, p, built) })
				}
			})
		}
		rows.Wait()
	}
}

func runOn(t *testing.T, p place, built *builds) {
	e := start(t, p)
	e.t, e.builds = t, built
	for _, s := range suites() {
		if s.runsOn(p) {
			t.Run(s.name, func(t *testing.T) { s.run(t, e) })
		}
	}
}
