package controller

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/proxyconfig"
	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// round is what came of one snapshot. It is immutable.
type round struct {
	number   uint64
	snapshot Snapshot
	topology topology.Topology
	assigned shadow.Assigned
	inSlices map[string]bool
	busy     map[shadow.PortKey]bool
	found    []problem.Problem // by the topology
	problems []problem.Problem // all, sorted
	common   []configv1.Resource
	version  string              // of common
	services []configv1.Resource // of common: what the topology says
	trust    []configv1.Resource // of common: whom proxies know each other by
	perProxy map[string][]configv1.Resource
	expires  time.Time         // of the identities in perProxy
	news     bool              // common or perProxy differ from the round before
	engine   []byte            // the Engine's config, if there is one
	limits   []problem.Problem // what it can't do of what the objects say
}

// round makes config of the current snapshot and publishes it. If that fails, which is a bug, the config stays what it
// was: a mesh that serves yesterday's config is better than none.
func (c *Controller) round() {
	began := time.Now()
	number := c.rounds.Add(1)
	next, err := c.build(c.Source.Snapshot())
	if err == nil {
		err = c.publish(next)
	}
	c.Metrics.round(time.Since(began), err)
	if err != nil {
		if c.logged.isNew(firstLine(err), began) {
			c.Log.Error("the config stays what it was", "err", err)
		}
		if next = c.failed(err); next == nil {
			return
		}
	} else {
		next.number = number
	}
	was := c.latest.Swap(next)
	if was == nil || was.version != next.version {
		c.Log.Debug("config changed", "version", next.version, "services", len(next.topology.Services), "problems", len(next.problems))
	}
	c.Metrics.observe(next)
	signal(c.toPlan)
	signal(c.toTell)
	signal(c.toNote)
	signal(c.toGuard)
}

// build turns a snapshot into a round. A panic in it is an error: the objects that caused it would cause it again.
func (c *Controller) build(s Snapshot) (r *round, err error) {
	defer recovered("build config", &err)
	last := c.latest.Load()
	r = &round{snapshot: s, inSlices: shadow.InSlices(s.Shadow, s.Proxies)}
	same := last != nil && s.Version != 0 && s.Version == last.snapshot.Version
	if same {
		r.topology, r.found = last.topology, last.found
	} else {
		config := c.Topology
		config.ServiceCIDRs = slices.Concat(config.ServiceCIDRs, s.ServiceCIDRs)
		r.topology, r.found = topology.Build(config, s.Resources)
	}
	r.assigned = shadow.Observe(r.topology, s.Shadow)
	if err := c.makeConfig(r, last, same); err != nil {
		return nil, err
	}
	if err := c.makeEngineConfig(r, last, same); err != nil {
		return nil, err
	}
	refused := c.refused(r)
	r.busy = c.avoid(refused, time.Now())
	r.problems = slices.Concat(r.found, r.limits, refusalProblems(c.ownRef(), refused))
	fillUIDs(r.problems, s.Resources)
	slices.SortFunc(r.problems, problem.Problem.Compare)
	return r, nil
}

// makeConfig makes the resources. What cannot differ from the last round's is taken from there: when a proxy is replaced
// there is a round for every tenth of a second of writing slices, and all that may come of it is one proxy's InSlices.
func (c *Controller) makeConfig(r, last *round, sameTopology bool) (err error) {
	sameServices := sameTopology && r.snapshot.Bypass == last.snapshot.Bypass && r.assigned.Equal(last.assigned)
	if sameServices {
		r.services = last.services
	} else {
		names := c.ProxyConfig
		names.DNSBypass = names.DNSBypass || r.snapshot.Bypass
		if r.services, err = proxyconfig.Build(names, r.topology, r.assigned); err != nil {
			return fmt.Errorf("build config: %w", err)
		}
	}
	if c.Trust != nil {
		if r.trust, err = proxyconfig.Trust(c.Trust(), r.snapshot.Proxies); err != nil {
			return fmt.Errorf("build config of trust: %w", err)
		}
	}
	if sameServices && slices.EqualFunc(r.trust, last.trust, sameResource) {
		r.common, r.version = last.common, last.version
	} else {
		r.common = slices.Concat(r.services, r.trust)
		slices.SortFunc(r.common, func(a, b configv1.Resource) int { return a.Compare(b.Key) })
		r.version, r.news = versionOf(r.common), true
	}
	r.expires = c.expiry(last, time.Now())
	if sameTopology && r.expires.Equal(last.expires) && maps.Equal(r.inSlices, last.inSlices) && slices.EqualFunc(r.snapshot.Proxies, last.snapshot.Proxies, sameProxy) {
		r.perProxy = last.perProxy
		return nil
	}
	if r.perProxy, err = proxyconfig.Proxies(r.topology, proxyconfig.Own{
		Proxies: r.snapshot.Proxies, InSlices: r.inSlices, Expires: r.expires,
	}); err != nil {
		return fmt.Errorf("build config of proxies: %w", err)
	}
	r.news = true
	return nil
}

// expiry is when the identities of a round end: those of the last round are renewed at half of their life.
func (c *Controller) expiry(last *round, now time.Time) time.Time {
	if last != nil && last.expires.Sub(now) > c.IdentityLifetime/2 {
		return last.expires
	}
	return now.Add(c.IdentityLifetime)
}

// untilRenewal is how long the identities that were told last need no renewal.
func (c *Controller) untilRenewal() time.Duration {
	last := c.latest.Load()
	if last == nil {
		return c.IdentityLifetime / 2
	}
	return max(time.Until(last.expires)-c.IdentityLifetime/2, 0)
}

func sameResource(a, b configv1.Resource) bool { return a.Key == b.Key && a.Version == b.Version }

// makeEngineConfig makes the Engine's config, if there is one, unless it can't differ from the last round's.
func (c *Controller) makeEngineConfig(r, last *round, sameTopology bool) (err error) {
	if c.Engine == nil {
		return nil
	}
	if sameTopology && r.assigned.Equal(last.assigned) {
		r.engine, r.limits = last.engine, last.limits
		return nil
	}
	if r.engine, r.limits, err = c.Engine.Render(r.topology, r.assigned); err != nil {
		return fmt.Errorf("build config of the proxy engine: %w", err)
	}
	return nil
}

// sameProxy compares what makes a difference to a proxy's config.
func sameProxy(a, b shadow.Proxy) bool { return a.Pod == b.Pod && a.Node == b.Node }

func (c *Controller) publish(r *round) (err error) {
	defer recovered("publish config", &err)
	if c.Engine != nil {
		c.Engine.Publish(r.engine)
	}
	if !r.news {
		return nil
	}
	c.Publisher.Publish(r.common, r.perProxy)
	return nil
}

// failed is the last round, with the Problem that there is no newer one; nil if there was none. Its number stays: what it
// knows of the cluster is as old as it was.
func (c *Controller) failed(err error) *round {
	last := c.latest.Load()
	if last == nil {
		return nil
	}
	next := *last
	next.problems = slices.DeleteFunc(slices.Clone(last.problems), func(p problem.Problem) bool { return p.Reason == problem.InternalError })
	next.problems = append(next.problems, problem.Newf(c.ownRef(), problem.InternalError, "%v", firstLine(err)))
	slices.SortFunc(next.problems, problem.Problem.Compare)
	return &next
}

// panicked is a panic that became an error.
type panicked struct {
	doing string
	value any
	stack []byte
}

func (p *panicked) Error() string { return fmt.Sprintf("%s: panic: %v\n%s", p.doing, p.value, p.stack) }

// recovered turns a panic into an error; it is deferred.
func recovered(doing string, err *error) {
	if v := recover(); v != nil {
		*err = &panicked{doing: doing, value: v, stack: debug.Stack()}
	}
}

// complaint keeps an error that comes back with every change from filling the log.
type complaint struct {
	text string
	at   time.Time
}

func (c *complaint) isNew(err error, now time.Time) bool {
	if err.Error() == c.text && now.Sub(c.at) < time.Minute {
		return false
	}
	*c = complaint{text: err.Error(), at: now}
	return true
}

// firstLine is an error for people: without a stack.
func firstLine(err error) error {
	if p, ok := err.(*panicked); ok { //nolint:errorlint // it is never wrapped
		return fmt.Errorf("%s: %v", p.doing, p.value)
	}
	return err
}

// versionOf is a hash over resources, which are sorted.
func versionOf(resources []configv1.Resource) string {
	h := sha256.New()
	line := make([]byte, 0, 256)
	for _, r := range resources {
		line = append(append(append(append(append(line[:0], r.Type...), 0), r.Name...), 0), r.Version...)
		h.Write(append(line, 0))
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}
