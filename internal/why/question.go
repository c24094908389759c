package why

import (
	"fmt"
	"net/textproto"
	"slices"
	"strings"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/access"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
)

// caller finds out who calls, as a proxy would.
func (m *Mesh) caller(from string, a *Answer) (access.Caller, error) {
	if from == "-" {
		return access.Caller{}, nil
	}
	namespace, name, ok := strings.Cut(from, "/")
	if !ok || namespace == "" || name == "" {
		return access.Caller{}, question("the caller %q is not namespace/serviceaccount or namespace/pod", from)
	}
	if !m.accounts[from] {
		for _, c := range m.callers {
			if c.Namespace == namespace && c.Pod == name {
				a.Pod, name = from, c.ServiceAccount
				a.Caller = namespace + "/" + name
				return known(namespace, name), nil
			}
		}
		a.Notes = append(a.Notes, fmt.Sprintf("no pod has the name %s or runs as a ServiceAccount of that name", from))
	}
	a.Caller = from
	return known(namespace, name), nil
}

func known(namespace, name string) access.Caller {
	return access.Caller{Identity: access.Identity{Namespace: namespace, ServiceAccount: name}, Standing: access.Known}
}

// port finds the port that is called, and completes the question.
func (m *Mesh) port(q *Question) (*route.Port, error) {
	labels := strings.Split(strings.TrimSuffix(q.To, "."), ".")
	if len(labels) < 2 || labels[0] == "" || labels[1] == "" {
		return nil, question("the destination %q is not name.namespace", q.To)
	}
	s := m.services[labels[1]+"/"+labels[0]]
	if s == nil {
		return nil, question("no Service %s in namespace %s is in the mesh", labels[0], labels[1])
	}
	fits := slices.DeleteFunc(slices.Clone(s.Ports), func(p *route.Port) bool {
		return q.Port != 0 && p.Number != q.Port || q.Protocol != "" && nameOf(p) != q.Protocol
	})
	switch len(fits) {
	case 1:
		q.Protocol = nameOf(fits[0])
		return fits[0], nil
	case 0:
		return nil, question("the Service %s has no such port; it has %s", s.Name, portsOf(s.Ports))
	}
	return nil, question("say which port of the Service %s: it has %s", s.Name, portsOf(fits))
}

func portsOf(ports []*route.Port) string {
	var out []string
	for _, p := range ports {
		out = append(out, fmt.Sprintf("%d/%s", p.Number, nameOf(p)))
	}
	return strings.Join(out, ", ")
}

func nameOf(p *route.Port) string {
	switch protocolOf(p) {
	case access.HTTP:
		return "http"
	case access.UDP:
		return "udp"
	case access.TCP:
	}
	return "tcp"
}

func protocolOf(p *route.Port) access.Protocol {
	switch p.Protocol {
	case configv1.Protocol_PROTOCOL_HTTP:
		return access.HTTP
	case configv1.Protocol_PROTOCOL_UDP:
		return access.UDP
	case configv1.Protocol_PROTOCOL_TCP, configv1.Protocol_PROTOCOL_UNSPECIFIED:
	}
	return access.TCP
}

// request is the head that is judged; nil for what is no HTTP.
func (q *Question) request(p *route.Port) (*access.Request, error) {
	if protocolOf(p) != access.HTTP {
		if q.Method != "" || q.Path != "" || len(q.Headers) > 0 {
			return nil, question("port %d carries %s: there is no method, path or header", p.Number, nameOf(p))
		}
		return nil, nil //nolint:nilnil // what is no HTTP has no request
	}
	headers := map[string][]string{}
	r := &access.Request{Method: q.Method, Path: q.Path, Host: q.To, EncodedSlash: p.EncodedSlash}
	for _, h := range q.Headers {
		name := textproto.CanonicalMIMEHeaderKey(h.Name)
		if name == "Host" {
			r.Host = h.Value
			continue
		}
		headers[name] = append(headers[name], h.Value)
	}
	r.Values = func(name string) []string { return headers[name] }
	if r.Method == "" {
		r.Method = "GET"
	}
	if r.Path, _, _ = strings.Cut(r.Path, "?"); r.Path == "" {
		r.Path = "/"
	}
	return r, nil
}
