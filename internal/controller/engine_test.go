package controller

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/status"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// fakeEngine renders the number of services.
type fakeEngine struct {
	mu      sync.Mutex
	renders int
	now     string
	broken  bool
}

func (e *fakeEngine) Render(t topology.Topology, _ shadow.Assigned) ([]byte, []problem.Problem, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.renders++
	if e.broken {
		return nil, nil, errors.New("broken")
	}
	return fmt.Appendf(nil, "%d services", len(t.Services)), []problem.Problem{{Object: problem.Ref{Kind: "Service", Name: "web"}, Reason: problem.NotEnforceable}}, nil
}

func (e *fakeEngine) Publish(config []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.now = string(config)
}

func (e *fakeEngine) Status() status.Engine {
	return status.Engine{Name: "fake", Limits: []string{"it cannot do anything"}}
}

func TestAnotherEngineIsGivenConfig(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		e := &fakeEngine{}
		c := w.controller()
		c.Engine = e
		w.runs(c, true)
		w.services("web", "db")
		pass(10 * time.Second)
		if e.now != "2 services" {
			t.Errorf("it has %q", e.now)
		}
		if len(w.problemsOf(problem.NotEnforceable)) != 1 {
			t.Error("what it can't do is not reported")
		}
		w.mu.Lock()
		if last := w.leader[len(w.leader)-1]; last.Engine == nil || last.Engine.Name != "fake" {
			t.Errorf("the status says %+v", last.Engine)
		}
		w.mu.Unlock()
		if _, ok := w.addresses("web"); !ok {
			t.Error("names are not published any more")
		}
		e.mu.Lock()
		e.broken = true
		e.mu.Unlock()
		w.services("web", "db", "new")
		pass(10 * time.Second)
		if e.now != "2 services" || len(w.problemsOf(problem.InternalError)) != 1 {
			t.Errorf("with a broken engine it has %q", e.now)
		}
	})
}
