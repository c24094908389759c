package identity

import (
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// Source gives the SVIDs of this node's identities, and what others' are known by. A Keeper is one, a WorkloadAPI
// another.
type Source interface {
	// SVID returns a valid SVID of id. If there is none yet it waits until ctx ends.
	SVID(ctx context.Context, id ID) (*SVID, error)
	// Bundle returns the trust bundle; nil while there is none.
	Bundle() *Bundle
}

// Signer gets certificates from the CA. Its errors say whether asking again helps: never for ErrDenied.
type Signer interface {
	// Sign asks for a certificate of a ServiceAccount that runs on this node, the chain in DER.
	Sign(ctx context.Context, namespace, account string, csr []byte) ([][]byte, error)
}

// ErrDenied is returned, wrapped, for an identity that this node may not have: it doesn't run here.
var ErrDenied = errors.New("identity denied")

// KeeperConfig is what a Keeper needs. Signer is required.
type KeeperConfig struct {
	Signer Signer
	Log    *slog.Logger
	// Retry is the first wait after a failed request; it grows to a minute, or an eighth of what is left of the SVID's life,
	// or to 5 s while there is no valid SVID and the CA has not denied one. Default 1 s.
	Retry time.Duration
	// Parallel bounds how many signatures are asked for at once; default 4.
	Parallel int
}

// Keeper holds the SVIDs of the identities that run on this node and renews each at about half its life. Keys are made
// here, live in memory and are new with every renewal.
//
// Run owns a goroutine for each identity.
type Keeper struct {
	config KeeperConfig
	places chan struct{} // one for each request under way

	mu      sync.Mutex
	bundle  *Bundle
	changed chan struct{} // closed when bundle, wanted or an entry changes
	wanted  map[ID]*entry
	counts  keeperCounts
}

type keeperCounts struct{ renewed, failed uint64 }

// entry is one identity. It is guarded by the Keeper's mutex.
type entry struct {
	svid   *SVID
	err    error // of the last request, nil if it succeeded
	due    time.Time
	cancel context.CancelFunc // nil until Run runs it
}

// NewKeeper returns a Keeper that wants nothing yet.
func NewKeeper(c KeeperConfig) *Keeper {
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	c.Retry, c.Parallel = cmp.Or(c.Retry, time.Second), cmp.Or(c.Parallel, 4)
	return &Keeper{config: c, places: make(chan struct{}, c.Parallel), changed: make(chan struct{}), wanted: map[ID]*entry{}}
}

// Trust sets the trust bundle.
func (k *Keeper) Trust(b *Bundle) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.bundle == nil || b == nil || k.bundle.Sum() != b.Sum() {
		k.bundle = b
		k.tell()
	}
}

// Want sets which identities run on this node. SVIDs of others are forgotten.
func (k *Keeper) Want(ids ...ID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	next := make(map[ID]*entry, len(ids))
	for _, id := range ids {
		if e := k.wanted[id]; e != nil {
			next[id] = e
		} else {
			next[id] = &entry{}
		}
	}
	for id, e := range k.wanted {
		if next[id] == nil && e.cancel != nil {
			e.cancel()
		}
	}
	k.wanted = next
	k.tell()
}

func (k *Keeper) tell() {
	close(k.changed)
	k.changed = make(chan struct{})
}

// Bundle implements Source.
func (k *Keeper) Bundle() *Bundle {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.bundle
}

// SVID implements Source. An identity that isn't wanted may be about to be: its pod may be that new.
func (k *Keeper) SVID(ctx context.Context, id ID) (*SVID, error) {
	for {
		k.mu.Lock()
		e, changed := k.wanted[id], k.changed
		var svid *SVID
		err := errors.New("it is not known to run on this node")
		if e != nil {
			svid, err = e.svid, cmp.Or(e.err, errors.New("no certificate yet"))
		}
		k.mu.Unlock()
		if svid != nil && time.Now().Before(svid.NotAfter) {
			return svid, nil
		}
		if svid != nil {
			err = fmt.Errorf("its SVID ended at %v: %w", svid.NotAfter, err)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("no SVID of %s: %w (%w)", id, err, ctx.Err())
		}
	}
}

// Run gets and renews SVIDs until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	for {
		k.mu.Lock()
		changed := k.changed
		if k.bundle != nil {
			for id, e := range k.wanted {
				if e.cancel == nil {
					var own context.Context
					own, e.cancel = context.WithCancel(ctx)
					running.Go(func() { k.keep(own, id, e) })
				}
			}
		}
		k.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// keep keeps one identity until ctx ends.
func (k *Keeper) keep(ctx context.Context, id ID, e *entry) {
	for wait := k.config.Retry; ; {
		began := time.Now()
		svid, err := k.request(ctx, id)
		if ctx.Err() != nil {
			return
		}
		pause := k.note(id, e, svid, err, began)
		if err != nil {
			wait = min(wait, k.patience(e, err))
			pause, wait = jitter(wait), 2*wait
		} else {
			wait = k.config.Retry
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// patience bounds the wait after a failed request.
func (k *Keeper) patience(e *entry, err error) time.Duration {
	if errors.Is(err, ErrDenied) {
		return time.Minute
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if e.svid != nil {
		if left := time.Until(e.svid.NotAfter); left > 0 {
			return min(time.Minute, max(left/8, k.config.Retry))
		}
	}
	return 5 * time.Second // calls fail for want of it
}

// note stores what came of a request and returns when to renew it.
func (k *Keeper) note(id ID, e *entry, svid *SVID, err error, began time.Time) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	e.err = err
	defer k.tell()
	if err == nil {
		k.counts.renewed++
		pause := jitter(svid.NotAfter.Sub(began) / 2)
		e.svid, e.due = svid, began.Add(pause)
		k.config.Log.Debug("SVID renewed", "id", id.String(), "until", svid.NotAfter)
		return pause
	}
	k.counts.failed++
	if e.svid == nil {
		k.config.Log.Info("no SVID yet", "id", id.String(), "err", err)
	} else {
		k.config.Log.Warn("SVID not renewed", "id", id.String(), "until", e.svid.NotAfter, "err", err)
	}
	return 0
}

// request makes a key and gets it certified.
func (k *Keeper) request(ctx context.Context, id ID) (*SVID, error) {
	select {
	case k.places <- struct{}{}:
		defer func() { <-k.places }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	key, csr, err := NewRequest()
	if err != nil {
		return nil, err
	}
	namespace, account, ok := SplitAccount(id)
	if !ok {
		return nil, fmt.Errorf("%w: %s is of no ServiceAccount", ErrDenied, id)
	}
	chain, err := k.config.Signer.Sign(ctx, namespace, account, csr)
	if err != nil {
		return nil, err
	}
	return k.accept(ctx, id, chain, key)
}

// accept checks what was signed. The root of it may be so new that the bundle with it is still on its way.
func (k *Keeper) accept(ctx context.Context, id ID, chain [][]byte, key crypto.Signer) (*SVID, error) {
	svid, err := NewSVID(chain, key, k.Bundle(), time.Now())
	if err == nil && svid.ID != id {
		err = fmt.Errorf("asked for %s, got %s", id, svid.ID)
	}
	if err != nil {
		return nil, fmt.Errorf("from the CA: %w", err)
	}
	return svid, ctx.Err()
}

// jitter spreads out what would happen at once: by a tenth, less or more.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*rand.Float64()))
}

// KeeperStatus is where a Keeper stands, or a WorkloadAPI.
type KeeperStatus struct {
	Wanted, Held int // identities, and those of them that have a valid SVID
	// Overdue is how many should have been renewed by now: who certifies doesn't answer, or denies them.
	Overdue int
	// FirstEnd is when the first valid SVID ends; zero if there is none.
	FirstEnd        time.Time
	Renewed, Failed uint64 // requests; a WorkloadAPI doesn't make any: of it, Failed are its refusals and silences
	LastError       error  // of an identity that couldn't be renewed
}

// Status returns where the Keeper stands.
func (k *Keeper) Status(now time.Time) KeeperStatus {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := KeeperStatus{Wanted: len(k.wanted), Renewed: k.counts.renewed, Failed: k.counts.failed}
	for _, e := range k.wanted {
		if e.err != nil {
			s.LastError = e.err
		}
		if e.svid == nil || !now.Before(e.svid.NotAfter) {
			continue
		}
		s.Held++
		if now.After(e.due) && e.err != nil {
			s.Overdue++
		}
		if s.FirstEnd.IsZero() || e.svid.NotAfter.Before(s.FirstEnd) {
			s.FirstEnd = e.svid.NotAfter
		}
	}
	return s
}
