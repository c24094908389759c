package traefik

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/smi"
)

// Rules are text to Traefik's parser, and much in them is written by users. Every such value is one literal, which
// nothing can end before its end; a match becomes a list of matchers that are ANDed, without parentheses, "or" or "not".

// rule ANDs matchers; none is a rule that every request fits.
func rule(matchers []string) string {
	if len(matchers) == 0 {
		return "PathPrefix(`/`)"
	}
	return strings.Join(matchers, " && ")
}

func matcher(name string, values ...string) string {
	for i, v := range values {
		values[i] = literal(v)
	}
	return name + "(" + strings.Join(values, ", ") + ")"
}

// literal writes a value as Go would, since Traefik's parser reads it as Go does: between backticks if that is possible,
// and quoted with everything escaped that is no printable ASCII if not.
func literal(s string) string {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' || s[i] == '`' {
			return strconv.QuoteToASCII(s)
		}
	}
	return "`" + s + "`"
}

// rendered is what became of a match.
type rendered struct {
	matchers []string
	never    bool // nothing can fit it
	err      error
}

// matchersOf renders a match, once for all routes that have its group.
func (r *renderer) matchersOf(m smi.HTTPMatch) ([]string, bool, error) {
	key := matchKey(m)
	done, ok := r.matches[key]
	if !ok {
		done.matchers, done.never, done.err = matchersOf(m)
		r.matches[key] = done
	}
	return slices.Clone(done.matchers), done.never, done.err
}

// matchKey is the same for matches that are rendered alike. Every part has its length before it.
func matchKey(m smi.HTTPMatch) string {
	var b strings.Builder
	for _, s := range append([]string{m.PathRegex}, m.Methods...) {
		b.WriteString(strconv.Itoa(len(s)) + ":" + s)
	}
	for _, h := range m.Headers {
		b.WriteString("\n" + strconv.Itoa(len(h.Name)) + ":" + h.Name + strconv.Itoa(len(h.ValueRegex)) + ":" + h.ValueRegex)
	}
	return b.String()
}

// matchersOf renders a match; never is true if nothing can fit it.
func matchersOf(m smi.HTTPMatch) (matchers []string, never bool, err error) {
	if m.PathRegex != "" {
		template, any, none, err := pathTemplate(m.PathRegex)
		if err != nil || none {
			return nil, none, err
		}
		if !any {
			matchers = append(matchers, matcher("PathPrefix", template))
		}
	}
	if len(m.Methods) > 0 {
		matchers = append(matchers, matcher("Method", append([]string(nil), m.Methods...)...))
	}
	for _, h := range m.Headers {
		header, err := headerMatcher(h)
		if err != nil {
			return nil, false, err
		}
		matchers = append(matchers, header)
	}
	return matchers, false, nil
}

// headerMatcher renders a header's match. Traefik doesn't have Host among the headers.
func headerMatcher(h smi.HeaderMatch) (string, error) {
	if strings.EqualFold(h.Name, "host") {
		template, err := hostTemplate(h.ValueRegex)
		return matcher("HostRegexp", template), err
	}
	value, err := wholeValue(h.ValueRegex)
	return matcher("HeadersRegexp", h.Name, value), err
}

// sources is a matcher for callers by address.
func sources(list []netip.Addr) string {
	texts := make([]string, 0, len(list))
	for _, a := range list {
		texts = append(texts, a.String())
	}
	return matcher("ClientIP", texts...)
}
