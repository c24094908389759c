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

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// WorkloadAPIConfig is what a WorkloadAPI needs.
type WorkloadAPIConfig struct {
	Addr string // e.g. unix:///run/spire/agent-sockets/spire-agent.sock
	Log  *slog.Logger
	// Ended, if not nil, is told of identities that the API gave and gives no more.
	Ended func(gone map[ID]bool)
}

// WorkloadAPI is a Source that gets SVIDs and bundle from a SPIFFE Workload API, such as SPIRE's agent serves: all that
// the API gives to this process. It has to give the SVIDs of every identity that runs on the node, so each of them needs
// a registration entry whose selectors are the proxy's.
//
// What the API gives is all there is: an identity that it leaves out has ended. While it doesn't answer, what it gave
// before stays, until its certificates end.
type WorkloadAPI struct {
	config WorkloadAPIConfig

	mu      sync.Mutex
	svids   map[ID]*SVID
	bundle  *Bundle
	err     error         // what was wrong with the API's last answer, or that there was none
	changed chan struct{} // closed when the API has said something new
	failed  uint64
}

// NewWorkloadAPI returns a WorkloadAPI that has nothing before Run.
func NewWorkloadAPI(c WorkloadAPIConfig) *WorkloadAPI {
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	return &WorkloadAPI{config: c, changed: make(chan struct{})}
}

// maxAnswer bounds what the API says at once, which is everything: an SVID takes about 2 KB, and where entries are of all
// nodes there may be thousands. gRPC's own bound is 4 MiB.
const maxAnswer = 64 << 20

// Run follows the API until ctx ends.
func (w *WorkloadAPI) Run(ctx context.Context) error {
	client, err := workloadapi.New(ctx, workloadapi.WithAddr(w.config.Addr),
		workloadapi.WithDialOptions(grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer))))
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
	td := c.DefaultSVID().ID.TrustDomain()
	svids := make(map[ID]*SVID, len(c.SVIDs))
	for _, s := range c.SVIDs {
		// Several entries may be of one identity. SVIDs of another trust domain would be no good with td's bundle.
		if next := svidOf(s); s.ID.MemberOf(td) && (svids[s.ID] == nil || svids[s.ID].NotAfter.Before(next.NotAfter)) {
			svids[s.ID] = next
		}
	}
	var bundle *Bundle
	set, err := c.Bundles.GetX509BundleForTrustDomain(td)
	if err == nil {
		bundle, err = NewBundle(td, set.X509Authorities())
	}
	if err != nil {
		w.OnX509ContextWatchError(fmt.Errorf("no trust bundle: %w", err))
		return
	}
	w.config.Log.Debug("Workload API", "svids", len(svids), "roots", len(bundle.roots))
	w.replace(svids, bundle, nil)
}

func svidOf(s *x509svid.SVID) *SVID {
	chain := make([][]byte, 0, len(s.Certificates))
	end := s.Certificates[0].NotAfter
	for _, cert := range s.Certificates {
		chain = append(chain, cert.Raw)
		end = minTime(end, cert.NotAfter)
	}
	return &SVID{
		ID: s.ID, NotAfter: end,
		Certificate: &tls.Certificate{Certificate: chain, PrivateKey: s.PrivateKey, Leaf: s.Certificates[0]},
	}
}

// OnX509ContextWatchError notes that the API doesn't answer, or gives nothing. What it gave stays until it ends, unless
// the API says that there is no identity any more: that is how SPIRE tells that the last entry was deleted.
func (w *WorkloadAPI) OnX509ContextWatchError(err error) {
	switch status.Code(err) {
	case codes.Canceled: // by Run's end
	case codes.PermissionDenied:
		w.config.Log.Warn("Workload API gives no identity", "address", w.config.Addr, "err", err)
		w.replace(nil, w.Bundle(), err)
	default:
		w.config.Log.Warn("Workload API does not answer", "address", w.config.Addr, "err", err)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.err = err
		w.failed++
	}
}

// replace takes what there is now into use.
func (w *WorkloadAPI) replace(svids map[ID]*SVID, b *Bundle, err error) {
	w.mu.Lock()
	gone := map[ID]bool{}
	for id := range w.svids {
		if svids[id] == nil {
			gone[id] = true
		}
	}
	w.svids, w.bundle, w.err = svids, b, err
	if err != nil {
		w.failed++
	}
	close(w.changed)
	w.changed = make(chan struct{})
	w.mu.Unlock()
	if len(gone) > 0 {
		w.config.Log.Info("identities ended", "count", len(gone))
		if w.config.Ended != nil {
			w.config.Ended(gone)
		}
	}
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

// Status returns where the WorkloadAPI stands with the identities that are wanted.
func (w *WorkloadAPI) Status(now time.Time, wanted []ID) KeeperStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := KeeperStatus{Wanted: len(wanted), Failed: w.failed, LastError: w.err}
	for _, id := range wanted {
		svid := w.svids[id]
		if svid == nil || !now.Before(svid.NotAfter) {
			continue
		}
		s.Held++
		if left := svid.NotAfter.Sub(now); left < overdue(svid.NotAfter.Sub(svid.Certificate.Leaf.NotBefore)) {
			s.Overdue++
		}
		if s.FirstEnd.IsZero() || svid.NotAfter.Before(s.FirstEnd) {
			s.FirstEnd = svid.NotAfter
		}
	}
	return s
}

// overdue is what is left of a life when SPIRE should have renewed it: at its half, a tenth earlier or later, or when what
// its agent's availability_target says is left, which is a day at least.
func overdue(life time.Duration) time.Duration {
	return min(life/2, 24*time.Hour) * 4 / 5
}
