//go:build linux

package holder

import (
	"fmt"
	"net/http"
	"sync"
	"time"
)

// status is what the health endpoints tell. Its methods may be called by any goroutine.
type status struct {
	grace time.Duration
	now   func() time.Time

	mu      sync.Mutex
	ever    bool      // a worker was ready once
	ready   bool      // the current worker is
	lost    time.Time // since when it isn't, if ever
	looping bool      // workers crash one after the other
	left    bool      // others serve instead
}

func (s *status) workerReady() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ever, s.ready = true, true
}

func (s *status) workerLeaves() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = true
}

// workerGone notes that the worker ended, and whether one after the other does.
func (s *status) workerGone(looping bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ready {
		s.ready, s.lost = false, s.now()
	}
	s.looping = looping
}

// stable notes that the worker has lived for long.
func (s *status) stable() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looping = false
}

// readiness returns nil if clients are served, or will be in a moment: a worker that is replaced within the grace
// doesn't take the proxy out of service.
func (s *status) readiness() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.looping:
		return errLooping
	case s.left:
		return errLeft
	case s.ready || s.ever && s.now().Sub(s.lost) < s.grace:
		return nil
	case s.ever:
		return fmt.Errorf("no worker is ready since %s", s.lost.Format(time.RFC3339))
	default:
		return errStarting
	}
}

// health returns nil unless a new container might help.
func (s *status) health() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.looping {
		return errLooping
	}
	return nil
}

func (s *status) handler() http.Handler {
	mux := http.NewServeMux()
	answer := func(check func() error) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if err := check(); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
			fmt.Fprintln(w, "ok")
		}
	}
	mux.HandleFunc("/readyz", answer(s.readiness))
	mux.HandleFunc("/healthz", answer(s.health))
	return mux
}
