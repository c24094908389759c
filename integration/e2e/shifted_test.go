package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"testing"

	"github.com/tulle-mesh/tulle/internal/why"
)

// shifted is a service whose traffic somebody shifts from one version to the next by a TrafficSplit.
type shifted struct {
	e               *env
	namespace, name string // what clients call
	caller, other   client // on two nodes: each one's proxy shares out its own requests
}

func (s shifted) url() string { return fmt.Sprintf("http://%s.%s.mesh./", s.name, s.namespace) }

// load calls the service from the other node all the while.
func (s shifted) load(t *testing.T, name string) *load {
	t.Helper()
	s.e.inARow(t, "calls from "+s.other.node, 3, settleTimeout, func() error { return s.other.allOK(t, "get", s.url()) })
	return s.other.load(t, name, "-rate", "50", s.url())
}

// backends are the names and weights of a TrafficSplit in a version, in the order they are written.
func (s shifted) backends(t *testing.T, split, version string) string {
	t.Helper()
	return s.e.run(t, "-n", s.namespace, "get", "trafficsplits."+version+".split.smi-spec.io", split, "-o", "jsonpath={.spec.backends[*].service} {.spec.backends[*].weight}")
}

// acts wants the mesh to act on the TrafficSplit, with shares in per cent.
func (s shifted) acts(t *testing.T, split string, percent map[string]int) {
	t.Helper()
	want := map[string]float64{}
	for service, p := range percent {
		if p > 0 {
			want[s.namespace+"/"+service] = float64(p)
		}
	}
	s.e.eventually(t, "tulle why", func() error {
		out, err := s.e.tulle(t, s.e.release, "why", "--from", clientNamespace+"/default", "--to", s.name+"."+s.namespace, "-o", "json")
		if err != nil {
			return err
		}
		var a why.Answer
		if err := json.Unmarshal([]byte(out), &a); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		have := map[string]float64{}
		for _, b := range a.Backends {
			if b.Percent > 0 {
				have[b.Service] = b.Percent
			}
		}
		if a.Split != s.namespace+"/"+split || !maps.Equal(have, want) {
			return fmt.Errorf("split %s with %v, want %v", a.Split, have, want)
		}
		return nil
	})
}

// shares wants 60 requests of one node to be answered exactly so, by version or, if they fail, by status.
func (s shifted) shares(t *testing.T, want map[string]int) {
	t.Helper()
	s.e.inARow(t, fmt.Sprintf("shares %v", want), 2, settleTimeout, func() error {
		sum := s.caller.call(t, "get", "-n", "60", s.url())
		got := maps.Clone(sum.ByVersion)
		if n := sum.ByStatus[500]; n > 0 {
			got["status 500"] = n
		}
		if !maps.Equal(got, want) {
			return fmt.Errorf("60 calls went to %v: %v, status %v", sum.ByVersion, sum.Errors, sum.ByStatus)
		}
		return nil
	})
}
