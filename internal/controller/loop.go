package controller

import (
	"cmp"
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/bypass"
	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/proxyconfig"
	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/status"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// Config is what a Controller needs. Fields are required unless they have a default.
type Config struct {
	Topology    topology.Config
	Shadow      shadow.Config // Now is the Controller's to set
	ProxyConfig proxyconfig.Config

	Source    Source
	Publisher Publisher
	Engine    Engine // nil: the mesh's own proxy
	Proxies   Proxies
	Writer    Writer
	Reporter  Reporter
	Recorder  Recorder
	Log       *slog.Logger
	Metrics   *Metrics // default: metrics that nobody reads

	Pod     string // this replica's
	Version string // of the build

	// A round begins when there was no change for Quiet (default 10 ms), or MaxWait (default 100 ms) after the first.
	Quiet, MaxWait time.Duration
	// RecordEvery is the least time between two writes of the state (default 2 s).
	RecordEvery time.Duration
	// Avoid is how long a target port that a proxy could not bind is not assigned again (default 10 min).
	Avoid time.Duration
	// IdentityLifetime is how long a proxy takes a pod's address for the pod after it was last told so (default 1 h).
	IdentityLifetime time.Duration
	// Trust gives the trust bundle, nil while there is none; itself nil if the mesh has no identities.
	Trust func() *configv1.TrustBundle
	// CAEnds says when the CA that signs identities ends, zero while there is none; itself nil if it is somebody else's.
	CAEnds func() time.Time
	// DNS gives the state of the stub domain and what is wrong with it; may be nil. A change of it makes the Source signal.
	DNS func() (*status.DNS, []problem.Problem)

	Bypass bypass.Config
	// Policies writes what closes the way around the mesh; nil: nobody looks at that.
	Policies PolicyWriter
	// Dial says whether a TCP connection could be opened from this pod, within a second or so.
	Dial func(ctx context.Context, address netip.AddrPort) bool
	// ProbeEvery is how often it is tried whether the way around is closed (default 3 s).
	ProbeEvery time.Duration
}

// Controller makes config of a Source's snapshots. Run and Lead are called once at a time each.
type Controller struct {
	Config
	started time.Time

	busy   map[shadow.PortKey]time.Time // owned by Run: target ports to avoid, and until when
	logged complaint                    // owned by Run
	rounds atomic.Uint64                // that were begun
	latest atomic.Pointer[round]        // that was finished

	again   chan struct{} // asks for a round although nothing changed
	toPlan  chan struct{} // there is a new round
	toTell  chan struct{} // there may be new problems
	toNote  chan struct{} // there may be a new state of this replica
	toGuard chan struct{} // there is a new round, or something was tried
	leading atomic.Bool
	planned atomic.Pointer[plan]   // on the leader: what came of the last plan
	direct  atomic.Pointer[direct] // on the leader: what is known of calls past the mesh
}

// New makes a Controller.
func New(c Config) *Controller {
	c.Quiet, c.MaxWait = cmp.Or(c.Quiet, 10*time.Millisecond), cmp.Or(c.MaxWait, 100*time.Millisecond)
	c.IdentityLifetime = cmp.Or(c.IdentityLifetime, time.Hour)
	c.ProbeEvery = cmp.Or(c.ProbeEvery, 3*time.Second)
	c.RecordEvery, c.Avoid = cmp.Or(c.RecordEvery, 2*time.Second), cmp.Or(c.Avoid, 10*time.Minute)
	if c.Metrics == nil {
		c.Metrics = NewMetrics(nil)
	}
	return &Controller{
		Config: c, started: time.Now(), busy: map[shadow.PortKey]time.Time{},
		again: make(chan struct{}, 1), toPlan: make(chan struct{}, 1), toTell: make(chan struct{}, 1), toNote: make(chan struct{}, 1), toGuard: make(chan struct{}, 1),
	}
}

// signal fills a channel of capacity one: latest wins.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run makes rounds until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	var g sync.WaitGroup
	defer g.Wait()
	g.Go(func() { c.noteReplica(ctx) })

	// Without a whole snapshot there is nothing to make a round of.
	select {
	case <-ctx.Done():
		return nil
	case <-c.Source.Changed():
	}
	for {
		c.round()
		if !c.waitChange(ctx) || !c.waitQuiet(ctx) {
			return nil
		}
	}
}

// Ready says whether the proxies were given a config.
func (c *Controller) Ready() bool { return c.latest.Load() != nil }

func (c *Controller) waitChange(ctx context.Context) bool {
	renewal := time.NewTimer(max(c.untilRenewal(), 100*time.Millisecond)) // not at once again after a round that failed
	defer renewal.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-renewal.C:
	case <-c.Source.Changed():
	case <-c.Proxies.Changed():
	case <-c.again:
	}
	return true
}

// waitQuiet waits for the end of a burst of changes, but not forever.
func (c *Controller) waitQuiet(ctx context.Context) bool {
	enough := time.NewTimer(c.MaxWait)
	defer enough.Stop()
	for {
		quiet := time.NewTimer(c.Quiet)
		select {
		case <-ctx.Done():
			quiet.Stop()
			return false
		case <-enough.C:
			quiet.Stop()
			return true
		case <-quiet.C:
			return true
		case <-c.Source.Changed():
		case <-c.Proxies.Changed():
		case <-c.again:
		}
		quiet.Stop()
	}
}

// Lead writes what the rounds say until ctx ends: it is for as long as this replica leads.
func (c *Controller) Lead(ctx context.Context) error {
	c.leading.Store(true)
	c.Metrics.leading.Set(1)
	defer func() {
		c.leading.Store(false)
		c.Metrics.leading.Set(0)
	}()
	c.Log.Info("leading", "name", c.Pod)
	signal(c.toPlan)
	signal(c.toTell)
	signal(c.toGuard)
	var g sync.WaitGroup
	g.Go(func() { c.planAndWrite(ctx) })
	g.Go(func() { c.tell(ctx) })
	g.Go(func() { c.guard(ctx) })
	g.Wait()
	c.planned.Store(nil)
	c.Metrics.problems(nil)
	c.Metrics.direct(nil)
	return nil
}

// ownRef is the object that problems of the mesh itself are said of.
func (c *Controller) ownRef() problem.Ref {
	return problem.Ref{APIVersion: "apps/v1", Kind: "Deployment", Namespace: c.Shadow.Namespace, Name: "tulle-controller"}
}
