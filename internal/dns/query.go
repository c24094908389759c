package dns

import (
	"net/netip"

	"github.com/miekg/dns"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/firsthop"
)

// query is one question for a name in a zone, with what answers it.
type query struct {
	*Plugin
	mesh   *configv1.Mesh
	zone   string // fully qualified, as configured
	owner  string // the name as it was asked, upper and lower case kept
	qtype  uint16
	client netip.Addr // that asks
}

// answer makes the message without what comes from the request: sections and code.
func (q query) answer(n name) *dns.Msg {
	switch n.kind {
	case apex:
		return q.records(q.apex(), nil)
	case probe:
		return q.records(q.text(ProbeText), nil)
	case whoami:
		return q.records(q.text(firsthop.Texts(q.Pod, q.client)...), nil)
	case empty:
		return q.records(nil, nil)
	case service:
		return q.service(n)
	default:
		return q.nothing(dns.RcodeNameError)
	}
}

func (q query) service(n name) *dns.Msg {
	f, ok := lookup(q.View, n, q.mesh.GetDnsBypass())
	if !ok && !n.short {
		return q.nothing(dns.RcodeNameError)
	}
	ttl := seconds(q.TTL)
	switch {
	case q.qtype == dns.TypeSRV && (n.proto == "" || n.port != "") && len(f.addresses) > 0:
		target := q.target(n)
		return q.records(serviceRecords(q.owner, target, n, f.ports, ttl), addressRecords(target, f.addresses, dns.TypeNone, ttl))
	case n.proto == "":
		return q.records(addressRecords(q.owner, f.addresses, q.qtype, ttl), nil)
	default:
		return q.records(nil, nil)
	}
}

// target is the name whose address an SRV record means, in the short form.
func (q query) target(n name) string {
	t := n.service + "." + n.namespace + "." + q.zone
	if n.pod != "" {
		t = n.pod + "." + t
	}
	return t
}

// records answers with rrs, or that there are none of the type. TypeANY gets one short record instead of all there is
// (RFC 8482).
func (q query) records(rrs, extra []dns.RR) *dns.Msg {
	if q.qtype == dns.TypeANY {
		rrs = []dns.RR{&dns.HINFO{Hdr: header(q.owner, dns.TypeHINFO, seconds(q.TTL)), Cpu: "RFC8482"}}
	}
	if len(rrs) == 0 {
		return q.nothing(dns.RcodeSuccess)
	}
	return &dns.Msg{Answer: rrs, Extra: extra}
}

// nothing is NXDOMAIN or NODATA, with the SOA that says for how long.
func (q query) nothing(rcode int) *dns.Msg {
	return &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: rcode}, Ns: []dns.RR{q.soa(q.zone, seconds(q.NegativeTTL))}}
}

func (q query) apex() []dns.RR {
	ttl := seconds(q.TTL)
	switch q.qtype {
	case dns.TypeSOA:
		return []dns.RR{q.soa(q.owner, ttl)}
	case dns.TypeNS:
		return []dns.RR{&dns.NS{Hdr: header(q.owner, dns.TypeNS, ttl), Ns: q.nameserver()}}
	}
	return nil
}

// text is a record that nobody may remember.
func (q query) text(texts ...string) []dns.RR {
	if q.qtype != dns.TypeTXT {
		return nil
	}
	return []dns.RR{&dns.TXT{Hdr: header(q.owner, dns.TypeTXT, 0), Txt: texts}}
}

// soa has a constant serial: nobody transfers the zone, and all proxies must say the same.
func (q query) soa(owner string, ttl uint32) dns.RR {
	return &dns.SOA{
		Hdr: header(owner, dns.TypeSOA, ttl), Ns: q.nameserver(), Mbox: "hostmaster." + q.zone, Serial: 1,
		Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: seconds(q.NegativeTTL),
	}
}

func (q query) nameserver() string {
	return dns.Fqdn(q.Nameserver + ".svc." + q.mesh.GetClusterDomain())
}
