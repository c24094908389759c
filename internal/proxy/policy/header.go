package policy

import (
	"strings"

	"github.com/tulle-mesh/tulle/internal/access"
)

// ClientCert is the header that tells a backend who calls, as the proxy knows it: "By=<destination>;URI=<caller>", SPIFFE
// IDs both.
const ClientCert = "X-Forwarded-Client-Cert"

// ownPrefix begins the names of headers that only the mesh may set.
const ownPrefix = "Tulle-"

// IsOwn says whether a header is the mesh's to set: what a client sends under its name never reaches a backend. The name
// may be in any letter case.
func IsOwn(name string) bool {
	switch {
	case len(name) == len(ClientCert) && strings.EqualFold(name, ClientCert):
		return true
	case len(name) < len(ownPrefix) || name[0]|0x20 != 't': // nearly all of them
		return false
	}
	return strings.EqualFold(name[:len(ownPrefix)], ownPrefix)
}

// ClientCertOf is the value of ClientCert for a call; empty if nobody knows who calls.
func (g *Gate) ClientCertOf(c Call) string {
	table, _ := g.config.Current()
	who, _ := g.callerOf(table, c.Peer)
	if who.Standing != access.Known {
		return ""
	}
	uri := "URI=" + spiffeID(table.TrustDomain, who.Namespace, who.ServiceAccount)
	namespace, account, _ := strings.Cut(c.Endpoint.Workload(), "/")
	if account == "" {
		return uri
	}
	return "By=" + spiffeID(table.TrustDomain, namespace, account) + ";" + uri
}

func spiffeID(domain, namespace, account string) string {
	return "spiffe://" + domain + "/ns/" + namespace + "/sa/" + account
}
