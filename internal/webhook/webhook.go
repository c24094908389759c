// Package webhook answers what the API server asks about SMI objects: what one is in another version of its kind, and
// what is wrong with one that somebody is about to write. It keeps nothing, so that any replica may be asked.
//
// It starts no goroutines.
package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/internal/problem"
)

// Where the handler is asked.
const (
	ConvertPath  = "/convert"
	ValidatePath = "/validate"
)

// Anybody who reaches the port may ask, so that what questions take is limited.
const (
	// maxBody is how large a question may be: an object may have 1.5 MiB, and an update is asked about with both.
	maxBody = 8 << 20
	// maxAtOnce is how many are in memory at once.
	maxAtOnce = 8
)

// Config is what a Handler needs. Log is required.
type Config struct {
	// Foreign says whether somebody else defines the objects of a resource. They may mean something to others, so that
	// they are never refused. nil = never.
	Foreign func(group, resource string) bool
	// Judge says what is wrong with a decoded object beside the objects that there are. Nobody is refused for that: it may
	// become right later. nil = nothing.
	Judge func(object any) []problem.Problem
	Log   *slog.Logger
}

// Handler is an http.Handler. It is safe for concurrent use.
type Handler struct {
	config  Config
	mux     *http.ServeMux
	slots   chan struct{}
	answers *prometheus.CounterVec
}

// New makes a Handler.
func New(c Config) *Handler {
	h := &Handler{config: c, mux: http.NewServeMux(), slots: make(chan struct{}, maxAtOnce)}
	h.answers = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tulle_controller_webhook_answers_total", Help: "Answers to the API server, by webhook and result.",
	}, []string{"webhook", "result"})
	for _, r := range []struct{ webhook, result string }{
		{"convert", "ok"}, {"convert", "failed"}, {"validate", "allowed"}, {"validate", "warned"}, {"validate", "refused"},
	} {
		h.answers.WithLabelValues(r.webhook, r.result)
	}
	h.mux.HandleFunc("POST "+ConvertPath, answer(h, h.convert))
	h.mux.HandleFunc("POST "+ValidatePath, answer(h, h.validate))
	return h
}

// Collector has the handler's metrics.
func (h *Handler) Collector() prometheus.Collector { return h.answers }

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

// answer reads a review, has it answered and writes it back.
func answer[Review any](h *Handler, do func(*Review) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case h.slots <- struct{}{}:
			defer func() { <-h.slots }()
		case <-r.Context().Done():
			return
		}
		var review Review
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err == nil {
			err = json.Unmarshal(body, &review)
		}
		if err == nil {
			err = safely(do, &review)
		}
		if err != nil {
			status := http.StatusBadRequest
			if errors.As(err, new(*http.MaxBytesError)) {
				status = http.StatusRequestEntityTooLarge
			}
			h.config.Log.Warn("webhook not answered", "name", r.URL.Path, "err", err)
			http.Error(w, err.Error(), status)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(review); err != nil {
			h.config.Log.Debug("webhook's answer not sent", "name", r.URL.Path, "err", err)
		}
	}
}

// safely makes an error of a bug: an object must not end the controller.
func safely[Review any](do func(*Review) error, review *Review) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	return do(review)
}
