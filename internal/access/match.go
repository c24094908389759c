package access

import (
	"fmt"
	"net/textproto"
	"slices"
	"strings"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

// match is a compiled match of an HTTPRouteGroup; its parts are ANDed.
type match struct {
	name    string
	path    *expr    // nil = any
	methods []string // empty = any
	headers []header
}

type header struct {
	name  string // canonical
	value *expr
}

func (m *match) fits(path string, r *Request) bool {
	if len(m.methods) > 0 && !slices.Contains(m.methods, r.Method) {
		return false
	}
	if m.path != nil && !m.path.MatchString(path) {
		return false
	}
	for _, h := range m.headers {
		if !h.fits(r) {
			return false
		}
	}
	return true
}

// fits judges every value of a header that is there several times: all must fit. A server may go by any of them, and a
// caller who adds one that fits to one that doesn't must not get through.
func (h *header) fits(r *Request) bool {
	values := []string{r.Host}
	if h.name != "Host" {
		values = nil
		if r.Values != nil {
			values = r.Values(h.name)
		}
	}
	for _, v := range values {
		if !h.value.MatchString(v) {
			return false
		}
	}
	return len(values) > 0
}

func (c *Compiler) match(m *configv1.Match) (*match, error) {
	out := &match{name: m.GetName(), methods: m.GetMethods()}
	var err error
	if source := m.GetPathRegex(); source != "" {
		if out.path, err = c.expr(source); err != nil {
			return nil, fmt.Errorf("match %q: path: %w", m.GetName(), err)
		}
	}
	for _, h := range m.GetHeaders() {
		name := h.GetName()
		if name == "" || strings.ContainsAny(name, " \t\r\n:") {
			return nil, fmt.Errorf("match %q: header %q: not a field name", m.GetName(), name)
		}
		value, err := c.expr(h.GetValueRegex())
		if err != nil {
			return nil, fmt.Errorf("match %q: header %s: %w", m.GetName(), name, err)
		}
		out.headers = append(out.headers, header{textproto.CanonicalMIMEHeaderKey(name), value})
	}
	return out, nil
}
