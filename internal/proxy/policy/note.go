package policy

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/access"
	"github.com/tulle-mesh/tulle/internal/proxy/meter"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
)

// note counts what an audit would have denied, and logs every kind of denial now and then. What is refused is counted by
// who refuses it.
func (g *Gate) note(table *route.Table, c Call, v access.Verdict) {
	who, _ := g.callerOf(table, c.Peer)
	if v.Allow {
		g.config.Meter.Audited(meter.Audit{
			Protocol: protocolName(c.Port), From: describe(who), To: c.Endpoint.Workload(),
			Namespace: c.Port.Service.Namespace, Service: c.Port.Service.Short, Reason: string(v.Reason),
		})
	}
	d := denial{describe(who), c.Endpoint.Workload(), c.Port.Service.Name, c.Port.Number, protocolOf(c.Port), v.Reason, v.Allow}
	left, say := g.log.admit(d, time.Now())
	if !say {
		return
	}
	attrs := []slog.Attr{
		slog.String("reason", string(v.Reason)), slog.String("protocol", protocolName(c.Port)),
		slog.String("from", d.from), slog.String("client", c.Peer.Address.String()),
		slog.String("to", c.Port.Service.Short+"."+c.Port.Service.Namespace), slog.Uint64("port", uint64(c.Port.Number)),
		slog.String("workload", d.to),
	}
	if r := c.Request; r != nil {
		attrs = append(attrs, slog.String("method", r.Method), slog.String("path", r.Path))
	}
	if left > 0 {
		attrs = append(attrs, slog.Int("unsaid", left))
	}
	if v.Allow {
		g.config.Log.LogAttrs(context.Background(), slog.LevelInfo, "access would be denied", attrs...)
		return
	}
	g.config.Log.LogAttrs(context.Background(), slog.LevelInfo, "access denied", attrs...)
}

func protocolName(p *route.Port) string {
	switch protocolOf(p) {
	case access.HTTP:
		return "http"
	case access.UDP:
		return "udp"
	case access.TCP:
	}
	return "tcp"
}

// denial is a kind of denial.
type denial struct {
	from, to string
	service  string
	port     uint32
	protocol access.Protocol
	reason   access.Reason
	audit    bool
}

// A kind of denial is logged at most once in sayAgain; of more kinds than maxKinds the log forgets when it said them.
const (
	sayAgain = 10 * time.Second
	maxKinds = 1000
)

// denials keeps denials from filling the log.
type denials struct {
	mu   sync.Mutex
	said map[denial]*saying // guarded by mu
}

type saying struct {
	at     time.Time
	unsaid int
}

// admit says whether to log a denial, and how many of the kind were not since the last that was.
func (d *denials) admit(k denial, now time.Time) (unsaid int, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.said[k]
	if s == nil {
		if len(d.said) >= maxKinds {
			clear(d.said)
		}
		d.said[k] = &saying{at: now}
		return 0, true
	}
	if now.Sub(s.at) < sayAgain {
		s.unsaid++
		return 0, false
	}
	unsaid = s.unsaid
	*s = saying{at: now}
	return unsaid, true
}
