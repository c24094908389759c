package route

import (
	"fmt"
	"net/textproto"
	"regexp"
	"slices"
	"strings"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

// Request is what a request is judged by: the head that is forwarded.
type Request struct {
	Method string
	Path   string // as sent, without the query
	Host   string
	// Values returns all values of a header by its canonical name (textproto.CanonicalMIMEHeaderKey), without Host.
	Values func(name string) []string
}

// match is a compiled match; its parts are ANDed.
type match struct {
	path    *regexp.Regexp // nil = any
	methods []string       // empty = any
	headers []header
}

type header struct {
	name  string // canonical
	value *regexp.Regexp
}

// Match returns the first route that fits the request, nil if none does.
func (p *Port) Match(r *Request) *Route {
	for _, route := range p.Routes {
		if len(route.matches) == 0 {
			return route
		}
		for i := range route.matches {
			if route.matches[i].fits(r) {
				return route
			}
		}
	}
	return nil
}

// Default returns the route for what is no HTTP: the first without matches, nil if there is none.
func (p *Port) Default() *Route {
	for _, route := range p.Routes {
		if len(route.matches) == 0 {
			return route
		}
	}
	return nil
}

func (m *match) fits(r *Request) bool {
	if len(m.methods) > 0 && !slices.Contains(m.methods, r.Method) {
		return false
	}
	if m.path != nil && !m.path.MatchString(r.Path) {
		return false
	}
	for _, h := range m.headers {
		if !h.fits(r) {
			return false
		}
	}
	return true
}

// fits judges every value of a repeated header: one that fits is enough (S2).
func (h *header) fits(r *Request) bool {
	if h.name == "Host" {
		return h.value.MatchString(r.Host)
	}
	return slices.ContainsFunc(r.Values(h.name), h.value.MatchString)
}

func compileMatch(m *configv1.Match) (match, error) {
	out := match{methods: m.GetMethods()}
	if s := m.GetPathRegex(); s != "" {
		re, err := regexp.Compile(s)
		if err != nil {
			return match{}, fmt.Errorf("path: %w", err)
		}
		out.path = re
	}
	for _, h := range m.GetHeaders() {
		name := h.GetName()
		if name == "" || strings.ContainsAny(name, " \t\r\n:") {
			return match{}, fmt.Errorf("header %q: not a field name", name)
		}
		re, err := regexp.Compile(h.GetValueRegex())
		if err != nil {
			return match{}, fmt.Errorf("header %s: %w", name, err)
		}
		out.headers = append(out.headers, header{textproto.CanonicalMIMEHeaderKey(name), re})
	}
	return out, nil
}
