package dns

import (
	"strings"

	"github.com/miekg/dns"

	"github.com/tulle-mesh/tulle/internal/firsthop"
)

// ProbeLabel, put before a mesh zone, makes a name that every proxy with a config answers: a TXT record with ProbeText.
// Any label may stand before it (e.g. "4711._tulle.mesh"), so that whoever asks through a cache can ask a name that no
// cache knows yet. It shows that queries for the zone reach the mesh's DNS.
const (
	ProbeLabel = "_tulle"
	ProbeText  = "tulle"
)

// kind is what sort of thing a name in a zone is.
type kind int

const (
	unknown kind = iota // no name of this shape exists
	apex                // the zone itself
	probe               // see ProbeLabel
	whoami              // see firsthop.Label
	empty               // nothing is here, but names below may exist (RFC 8020): NODATA, not NXDOMAIN
	service             // a service, one pod of it, or a port of it
)

// name is a query name taken apart; only kind service fills the other fields.
type name struct {
	kind                    kind
	namespace, service, pod string
	// port and proto are the labels of _port._proto without underscore. Only proto is set for the empty name between a
	// port and its service.
	port, proto string
	// short is true if the name could also be the empty one above names in the long form: web.shop.svc.local has
	// shop.svc.local above it, which is in the short form a pod of a service "svc".
	short bool
}

// inZone returns the longest of the zones that qname (lower case, fully qualified) is in, and the labels before it.
func inZone(qname string, zones []string) (zone string, labels []string, ok bool) {
	for _, z := range zones {
		if len(z) > len(zone) && dns.IsSubDomain(dns.Fqdn(z), qname) {
			zone, ok = z, true
		}
	}
	if !ok {
		return "", nil, false
	}
	labels = dns.SplitDomainName(qname)
	return zone, labels[:len(labels)-dns.CountLabel(zone)], true
}

// parse takes the labels before the zone apart (lower case). The forms are
//
//	[_port._proto.][pod.]name.namespace[.svc.local]
func parse(labels []string) name {
	n := len(labels)
	switch {
	case n == 0:
		return name{kind: apex}
	case labels[n-1] == ProbeLabel:
		return probeName(labels)
	case n == 1 && labels[0] == firsthop.Label:
		return name{kind: whoami}
	case n == 1:
		return name{kind: emptyOr(labels[0])}
	}
	rest, port, proto, ok := cutPort(labels)
	if !ok {
		return name{}
	}
	long := len(rest) >= 4 && strings.Join(rest[len(rest)-2:], ".") == "svc.local"
	if long {
		rest = rest[:len(rest)-2]
	}
	if len(rest) < 2 || len(rest) > 3 {
		return name{}
	}
	m := name{kind: service, port: port, proto: proto, namespace: rest[len(rest)-1], service: rest[len(rest)-2]}
	if len(rest) == 3 {
		m.pod = rest[0]
	}
	m.short = !long && proto == "" && m.namespace == "local" && m.service == "svc"
	return m
}

// cutPort takes _port._proto, or _proto alone, from the front. ok is false if the labels start with an underscore and
// are neither.
func cutPort(labels []string) (rest []string, port, proto string, ok bool) {
	first, is := strings.CutPrefix(labels[0], "_")
	if !is {
		return labels, "", "", true
	}
	if second, is := strings.CutPrefix(labels[1], "_"); is {
		return labels[2:], first, second, first != "" && isProto(second)
	}
	return labels[1:], "", first, isProto(first)
}

func isProto(s string) bool { return s == "tcp" || s == "udp" }

func probeName(labels []string) name {
	if len(labels) <= 2 {
		return name{kind: probe}
	}
	return name{}
}

// emptyOr is for a single label, a namespace or "local": that services are below is assumed, for a "no such name" of a
// namespace would stand in resolvers' caches for all the names below it.
func emptyOr(label string) kind {
	if strings.HasPrefix(label, "_") {
		return unknown
	}
	return empty
}
