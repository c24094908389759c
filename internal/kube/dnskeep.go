package kube

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/tulle-mesh/tulle/internal/corefile"
)

// kept is a target while it is looked at.
type kept struct {
	target  corefile.Target
	servers []netip.Addr // of the mesh DNS
	object  dnsObject
	history *dnsHistory
	state   DNSTarget
}

// keep looks at one target, does what is due, and says when to look again.
func (m *DNSManager) keep(ctx context.Context, t corefile.Target, servers []netip.Addr) (DNSTarget, time.Duration) {
	k := &kept{target: t, servers: servers}
	k.state = DNSTarget{Kind: t.Kind, Object: dnsObject{target: t}.name(), Ref: dnsObject{target: t}.ref()}
	var err error
	if k.object, err = m.config.read(ctx, t); err != nil {
		return k.state.trouble(err), m.config.Timing.Interval
	}
	k.history = m.record.of(k.state.Object)
	for _, cache := range []bool{true, false} {
		b := m.block(k, cache)
		next, err := k.object.patch(b)
		if err != nil {
			return k.state.refused(err), m.config.Timing.Interval
		}
		if k.object.same(next) {
			return m.inPlace(ctx, k, b)
		}
	}
	if m.config.Mode == DNSPrint {
		return m.print(k), m.config.Timing.Interval
	}
	return m.put(ctx, k)
}

func (m *DNSManager) block(k *kept, cache bool) corefile.Block {
	return corefile.Block{Mesh: m.config.Namespace, Zones: m.config.Zones, Servers: k.servers, Cache: cache}
}

// print says what to put where.
func (m *DNSManager) print(k *kept) DNSTarget {
	s := k.state
	next, err := k.object.patch(m.block(k, false))
	if err != nil {
		return s.refused(err)
	}
	where, what := s.Object, next.text()
	switch k.target.Kind {
	case corefile.OpenShift:
		where += ", spec"
	case corefile.KubeDNS:
		where += ", key " + k.target.Key
	default:
		where, what = where+", key "+k.target.Key+", at the end", corefile.BlockOf(what, m.config.Namespace)
	}
	s.Paste = where + ":\n" + what
	return s.in(DNSToPaste, "the mesh's zones are not in the cluster's DNS: put there what `tulle status` shows")
}

// put writes the block, if nothing speaks against it.
func (m *DNSManager) put(ctx context.Context, k *kept) (DNSTarget, time.Duration) {
	now, timing, h := time.Now(), m.config.Timing, k.history
	if m.stopped(k, now) {
		m.remember(ctx)
		return k.state.in(DNSFighting, fmt.Sprintf("somebody takes the block out again and again; it was put back %d times within %s and is left out now. "+
			"Find out who writes %s, or set dns.mode to print. To go on, put the block in by hand, or empty the key %s of ConfigMap %s/%s and restart Deployment %s",
			timing.Fights, timing.FightWindow, k.state.Object, recordKey, m.config.Namespace, dnsConfigMap, DNSWriter)), timing.Interval
	}
	if h.Bad == m.candidate(k) && now.Before(h.BadAt.Add(timing.Retry)) {
		return k.state.in(DNSUndone, fmt.Sprintf("the block was taken out again at %s: %s. It is tried again after %s, or when something changes",
			h.BadAt.UTC().Format(time.TimeOnly), h.BadWhy, timing.Retry)), timing.Interval
	}
	if err := m.fit(ctx, k); err != nil {
		return k.state.in(DNSPending, err.Error()), timing.Poll
	}
	if err := m.config.zonesFree(ctx, m.config.Zones); err != nil {
		return k.state.trouble(err), timing.Interval
	}
	next, b, err := m.try(ctx, k)
	if err != nil {
		return k.state.in(DNSRefused, err.Error()), timing.Interval
	}
	before, err := m.askAll(ctx, k.target)
	if err != nil {
		return k.state.trouble(err), timing.Poll
	}
	if err := m.config.write(ctx, k.object, next); err != nil {
		if apierrors.IsConflict(err) {
			return k.state.in(DNSPending, "somebody else is writing"), timing.Poll
		}
		return k.state.trouble(err), timing.Interval
	}
	m.note(k, b, before)
	m.remember(ctx)
	m.config.Log.Info("the mesh's zones were put into the cluster's DNS", "object", k.state.Object, "zones", strings.Join(b.Zones, " "))
	return k.state.in(DNSPending, "written, waiting for the pods of the cluster's DNS to take it up"), timing.Poll
}

// note remembers what was written and who answered before.
func (m *DNSManager) note(k *kept, b corefile.Block, before []asked) {
	h, id := k.history, hash(b)
	if h.Block == id {
		h.Fights = append(h.Fights, time.Now())
	}
	h.Block, h.Written, h.Verified, h.Restart, h.Bad = id, time.Now(), false, time.Time{}, ""
	var answered []string
	for _, p := range before {
		if p.Cluster {
			answered = append(answered, p.Name)
		}
	}
	m.before[k.state.Object] = answered
	maps.DeleteFunc(m.silent, func(id [2]string, _ int) bool { return id[0] == k.state.Object })
}

// stopped is true if the block was put back too often. It is, until the block is there again or another one is wanted.
func (m *DNSManager) stopped(k *kept, now time.Time) bool {
	h := k.history
	h.Fights = slices.DeleteFunc(h.Fights, func(t time.Time) bool { return now.Sub(t) >= m.config.Timing.FightWindow })
	wanted := hash(m.config.Zones, k.servers)
	if h.Stopped == wanted {
		return true
	}
	h.Stopped = ""
	if h.Block != "" && len(h.Fights) >= m.config.Timing.Fights {
		h.Stopped = wanted
	}
	return h.Stopped != ""
}

// candidate identifies what would be written: the object's own text and the block.
func (m *DNSManager) candidate(k *kept) string {
	rest, err := k.object.unpatch(m.config.Namespace)
	if err != nil {
		rest = k.object
	}
	return hash(rest.text(), m.config.Zones, k.servers)
}

// fit says what has to be waited for before anything is written: a mesh DNS that answers, and a cluster DNS that is well.
func (m *DNSManager) fit(ctx context.Context, k *kept) error {
	if err := m.meshAnswers(ctx, k.servers); err != nil {
		return err
	}
	pods, err := m.askAll(ctx, k.target)
	if err != nil {
		return err
	}
	if len(pods) > 0 && !slices.ContainsFunc(pods, func(p asked) bool { return p.Cluster }) {
		return fmt.Errorf("the cluster's own DNS does not answer (%s); it is not touched before it does", pods[0].Message)
	}
	return nil
}

// zonesFree refuses zones that a namespace could take over.
func (a DNSAccess) zonesFree(ctx context.Context, zones []string) error {
	for _, zone := range zones {
		name := corefile.Hijack(zone)
		exists, err := a.hasNamespace(ctx, name)
		if err != nil {
			return err
		}
		if exists {
			return &namespaceError{zone: zone, namespace: name}
		}
	}
	return nil
}

// namespaceError is a namespace that is called like the end of a zone.
type namespaceError struct{ zone, namespace string }

func (e *namespaceError) Error() string {
	return fmt.Sprintf("namespace %s is called like the end of zone %s: with the search path of pods, web.shop.%s is first looked up as "+
		"web.shop.%s.svc.<cluster domain>, so who owns that namespace could answer for the mesh; choose another zone or remove the namespace",
		e.namespace, e.zone, e.zone, e.zone)
}
