package dns

import (
	"context"
	"sync/atomic"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/pkg/rcode"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// count counts what the next handler answers. Its labels can take few values, whatever is asked.
type count struct {
	next    plugin.Handler
	counter *prometheus.CounterVec
}

// Name implements plugin.Handler.
func (count) Name() string { return "count" }

// ServeDNS implements plugin.Handler.
func (c count) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	rec := &recorder{ResponseWriter: w}
	code, err := c.next.ServeDNS(ctx, rec, r)
	if rec.wrote {
		c.counter.WithLabelValues(typeLabel(r.Question[0].Qtype), rcode.ToString(rec.rcode)).Inc()
	} else {
		c.counter.WithLabelValues(typeLabel(r.Question[0].Qtype), rcode.ToString(code)).Inc()
	}
	return code, err
}

func typeLabel(qtype uint16) string {
	switch qtype {
	case dns.TypeA, dns.TypeAAAA, dns.TypeSRV:
		return dns.TypeToString[qtype]
	}
	return "other"
}

type recorder struct {
	dns.ResponseWriter
	wrote bool
	rcode int
}

func (r *recorder) WriteMsg(m *dns.Msg) error {
	r.wrote, r.rcode = true, m.Rcode
	return r.ResponseWriter.WriteMsg(m)
}

// watched tells of every query, and ends connections of those who are to ask elsewhere.
type watched struct {
	plugin.Handler
	tell func() // nil = not
	left *atomic.Bool
}

// ServeDNS implements plugin.Handler.
func (h watched) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	if h.tell != nil {
		h.tell()
	}
	code, err := h.Handler.ServeDNS(ctx, w, r)
	if h.left.Load() && plugin.ClientWrite(code) {
		_ = w.Close() // it is the client's end, too, if it fails
	}
	return code, err //nolint:wrapcheck // the chain's
}
