package identity

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// WorkloadAPIConfig is what a WorkloadAPI needs.
type WorkloadAPIConfig struct {
	Addr string // e.g. unix:///run/spire/agent-sockets/spire-agent.sock
	Log  *slog.Logger
}

// WorkloadAPI is a Source that gets SVIDs and bundle from a SPIFFE Workload API, such as SPIRE's agent serves: all that
// the API gives to this process. It has to give the SVIDs of every identity that runs on the node, so each of them needs
// a registration entry whose selectors are the proxy's.
type WorkloadAPI struct {
	config WorkloadAPIConfig

	mu      sync.Mutex
	svids   map[ID]*SVID
	bundle  *Bundle
	err     error
	changed chan struct{} // closed when the API has said something new
}

// NewWorkloadAPI returns a WorkloadAPI that has nothing before Run.
func NewWorkloadAPI(c WorkloadAPIConfig) *WorkloadAPI {
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	return &WorkloadAPI{config: c, changed: make(chan struct{})}
}

// Run follows the API until ctx ends.
func (w *WorkloadAPI) Run(ctx context.Context) error {
	client, err := workloadapi.New(ctx, workloadapi.WithAddr(w.config.Addr))
	if err != nil {
		return fmt.Errorf("open Workload API %s: %w", w.config.Addr, err)
	}
	defer client.Close()
	// It comes back by itself, until ctx ends.
	err = client.WatchX509Context(ctx, w)
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("follow Workload API %s: %w", w.config.Addr, err)
}

// OnX509ContextUpdate takes what the API says now in place of what it said before.
func (w *WorkloadAPI) OnX509ContextUpdate(c *workloadapi.X509Context) {
	svids := map[ID]*SVID{}
	var td spiffeid.TrustDomain
	for _, s := range c.SVIDs {
		chain := make([][]byte, 0, len(s.Certificates))
		end := s.Certificates[0].NotAfter
		for _, cert := range s.Certificates {
			chain = append(chain, cert.Raw)
			end = minTime(end, cert.NotAfter)
		}
		svids[s.ID] = &SVID{
			ID: s.ID, NotAfter: end,
			Certificate: &tls.Certificate{Certificate: chain, PrivateKey: s.PrivateKey, Leaf: s.Certificates[0]},
		}
		td = s.ID.TrustDomain()
	}
	var bundle *Bundle
	set, err := c.Bundles.GetX509BundleForTrustDomain(td)
	if err == nil {
		bundle, err = NewBundle(td, set.X509Authorities())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.err = err
		w.config.Log.Warn("no trust bundle from the Workload API", "err", err)
		return
	}
	w.svids, w.bundle, w.err = svids, bundle, nil
	w.config.Log.Debug("Workload API", "svids", len(svids), "roots", len(bundle.roots))
	close(w.changed)
	w.changed = make(chan struct{})
}

// OnX509ContextWatchError notes that the API doesn't answer, or gives nothing. What it gave stays until it ends.
func (w *WorkloadAPI) OnX509ContextWatchError(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
	w.config.Log.Warn("Workload API does not answer", "address", w.config.Addr, "err", err)
}

// SVID implements Source.
func (w *WorkloadAPI) SVID(ctx context.Context, id ID) (*SVID, error) {
	for {
		w.mu.Lock()
		svid, err, changed := w.svids[id], w.err, w.changed
		w.mu.Unlock()
		if svid != nil && time.Now().Before(svid.NotAfter) {
			return svid, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("no SVID of %s from the Workload API: %w (%w)", id, cmp.Or(err, errors.New("it gives none")), ctx.Err())
		}
	}
}

// Bundle implements Source.
func (w *WorkloadAPI) Bundle() *Bundle {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bundle
}
