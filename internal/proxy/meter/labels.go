package meter

import (
	"cmp"
	"strconv"
)

func peerNames(more ...string) []string {
	return append([]string{"source_namespace", "source_workload", "namespace", "service", "port", "backend"}, more...)
}

func (p Peers) values(more ...string) []string {
	port := ""
	if p.Port != 0 {
		port = strconv.FormatUint(uint64(p.Port), 10)
	}
	return append([]string{
		cmp.Or(p.SourceNamespace, unknown), cmp.Or(p.SourceWorkload, unknown), p.Namespace, p.Service, port, p.Backend,
	}, more...)
}

func (p Peers) called() string {
	if p.Service == "" {
		return ""
	}
	return p.Namespace + "/" + p.Service
}

func (p Peers) concerns(service string) bool { return p.called() == service || p.Backend == service }

func overflowPeers() Peers {
	return Peers{SourceNamespace: overflow, SourceWorkload: overflow}
}

type requestLabels struct {
	Peers
	code string
}

func (l requestLabels) overflow() requestLabels { return requestLabels{overflowPeers(), l.code} }

type connLabels struct{ Peers }

func (connLabels) overflow() connLabels { return connLabels{overflowPeers()} }

type refusalLabels struct{ protocol, namespace, service, reason string }

func (l refusalLabels) called() string {
	return Peers{Namespace: l.namespace, Service: l.service}.called()
}

func (l refusalLabels) concerns(service string) bool { return l.called() == service }

func (l refusalLabels) overflow() refusalLabels {
	return refusalLabels{l.protocol, "", "", l.reason}
}

func (l refusalLabels) values() []string {
	return []string{l.protocol, l.namespace, l.service, l.reason}
}

type serviceLabels struct{ namespace, service string }

func (l serviceLabels) called() string {
	return Peers{Namespace: l.namespace, Service: l.service}.called()
}

func (l serviceLabels) concerns(service string) bool { return l.called() == service }

func (serviceLabels) overflow() serviceLabels { return serviceLabels{} }

// Audit is a call that access control would have denied.
type Audit struct {
	Protocol           string // "http", "tcp" or "udp"
	From, To           string // ServiceAccounts, "namespace/name"
	Namespace, Service string // the service that was called
	Reason             string
}

func (a Audit) called() string { return Peers{Namespace: a.Namespace, Service: a.Service}.called() }

func (a Audit) concerns(service string) bool { return a.called() == service }

func (a Audit) overflow() Audit { return Audit{Protocol: a.Protocol, From: overflow, Reason: a.Reason} }

func (a Audit) values() []string {
	return []string{a.Protocol, a.From, a.To, a.Namespace, a.Service, a.Reason}
}
