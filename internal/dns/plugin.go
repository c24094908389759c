package dns

import (
	"context"
	"net/netip"
	"strings"
	"time"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"
)

// maxUDP is the largest answer sent in one datagram, whatever the client offers: what passes every network unfragmented.
const maxUDP = 1232

// Plugin answers the queries for mesh names; it is the end of its chain and refuses everything else.
type Plugin struct {
	View View
	// Nameserver is named by the zones' NS and SOA records: the mesh DNS Service, "tulle-dns.tulle-system"; the
	// cluster's domain is appended.
	Nameserver string
	// Pod is who answers, for those who ask; see firsthop.Label.
	Pod string
	TTL time.Duration // of answers
	// NegativeTTL is how long resolvers may remember that there is no answer.
	NegativeTTL time.Duration
}

var _ plugin.Handler = (*Plugin)(nil)

// Name implements plugin.Handler.
func (*Plugin) Name() string { return "tulle" }

// ServeDNS implements plugin.Handler. A code that isn't success goes back to the server, which writes the answer.
func (p *Plugin) ServeDNS(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	if r.Opcode != dns.OpcodeQuery {
		return dns.RcodeNotImplemented, nil
	}
	mesh := p.View.Mesh()
	if mesh == nil { // Nothing is known yet, not even which zones are served: another proxy can answer.
		return dns.RcodeServerFailure, nil
	}
	state := request.Request{W: w, Req: r}
	zone, labels, ok := inZone(strings.ToLower(state.QName()), mesh.GetZones())
	if !ok {
		return dns.RcodeRefused, nil
	}
	if o := r.IsEdns0(); o != nil && o.UDPSize() > maxUDP && state.Proto() == "udp" {
		o.SetUDPSize(maxUDP)
	}
	q := query{Plugin: p, mesh: mesh, zone: dns.Fqdn(zone), owner: state.QName(), qtype: state.QType(), client: clientOf(state)}
	m := q.answer(parse(labels))
	m.SetRcode(r, m.Rcode)
	m.Authoritative, m.Compress = true, true
	return dns.RcodeSuccess, w.WriteMsg(m)
}

// clientOf is the address that the question came from.
func clientOf(r request.Request) netip.Addr {
	a, _ := netip.ParseAddr(r.IP())
	return a.Unmap().WithZone("")
}

func seconds(d time.Duration) uint32 { return uint32(d / time.Second) }
