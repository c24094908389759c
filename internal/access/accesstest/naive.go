package accesstest

import (
	"path"
	"regexp"
	"slices"
	"strings"
)

// Decide goes through the rules of SMI one by one, for one call, slowly. It returns "" for a call that is allowed, and
// else why it is not.
func (m *Model) Decide(c Call) string {
	switch c.Standing {
	case "unknown":
		return "unknown-caller"
	case "stale":
		return "identity-stale"
	case "elsewhere":
		return "caller-not-local"
	}
	// A1: nothing is allowed that no target allows.
	var about, mine []Target
	for _, t := range m.Targets {
		if t.Destination == c.To {
			about = append(about, t)
			if slices.Contains(t.Sources, c.Caller) { // A8: literally
				mine = append(mine, t)
			}
		}
	}
	if len(about) == 0 {
		return "no-target"
	}
	if len(mine) == 0 { // A3
		return "source-denied"
	}
	judged := c.Path
	if c.Protocol == "http" && slices.ContainsFunc(mine, func(t Target) bool { return m.judgesPath(t, c) }) {
		var ok bool
		if judged, ok = canonical(c.Path, m.EncodedSlash); !ok {
			return "bad-path"
		}
	}
	reason := "port-denied"
	for _, t := range mine { // A9: a union
		switch m.allows(t, c, judged) {
		case "yes":
			return ""
		case "route":
			reason = "route-denied"
		}
	}
	return reason
}

// has says whether a target has rules of a kind.
func has(t Target, kind string) bool {
	return slices.ContainsFunc(t.Rules, func(r Rule) bool { return r.Kind == kind })
}

// onPort says whether rules of a kind allow a port: A5, S4. A rule that names nothing allows none, and neither does one
// that asks for matches where there are none.
func (m *Model) onPort(t Target, kind string, routes map[string][]int, port int) bool {
	if t.Port != 0 && t.Port != port {
		return false
	}
	for _, r := range t.Rules {
		ports, exists := routes[r.Name]
		if r.Kind == kind && exists && len(r.Matches) == 0 && (len(ports) == 0 || slices.Contains(ports, port)) {
			return true
		}
	}
	return false
}

// httpPort says whether HTTP requests are allowed on a port by a target with HTTP rules.
func (m *Model) httpPort(t Target, port int) bool {
	if has(t, "TCPRoute") {
		return m.onPort(t, "TCPRoute", m.TCP, port)
	}
	return t.Port == 0 || t.Port == port
}

// allows says "yes", "route" if only the request does not fit, or "no".
func (m *Model) allows(t Target, c Call, judged string) string {
	switch {
	case c.Protocol == "udp": // A6
		if m.onPort(t, "UDPRoute", m.UDP, c.Port) {
			return "yes"
		}
		return "no"
	case c.Protocol == "tcp":
		if !has(t, "HTTPRouteGroup") && m.onPort(t, "TCPRoute", m.TCP, c.Port) {
			return "yes"
		}
		return "no"
	case !has(t, "HTTPRouteGroup"):
		if m.onPort(t, "TCPRoute", m.TCP, c.Port) {
			return "yes"
		}
		return "no"
	case !m.httpPort(t, c.Port):
		return "no"
	}
	for _, match := range m.chosen(t) {
		if fits(match, c, judged) {
			return "yes"
		}
	}
	return "route"
}

// chosen are the matches that a target's rules mean: A4.
func (m *Model) chosen(t Target) []Match {
	var out []Match
	for _, r := range t.Rules {
		if r.Kind != "HTTPRouteGroup" {
			continue
		}
		for _, match := range m.Groups[r.Name] {
			if len(r.Matches) == 0 || slices.Contains(r.Matches, match.Name) {
				out = append(out, match)
			}
		}
	}
	return out
}

func (m *Model) judgesPath(t Target, c Call) bool {
	return has(t, "HTTPRouteGroup") && m.httpPort(t, c.Port) &&
		slices.ContainsFunc(m.chosen(t), func(match Match) bool { return match.Path != "" })
}

// fits is S1, S2 and S3.
func fits(m Match, c Call, judged string) bool {
	if len(m.Methods) > 0 && !slices.Contains(m.Methods, "*") {
		upper := strings.Split(strings.ToUpper(strings.Join(m.Methods, " ")), " ")
		if !slices.Contains(upper, c.Method) {
			return false
		}
	}
	if m.Path != "" {
		at := regexp.MustCompile(m.Path).FindStringIndex(judged)
		if at == nil || at[0] != 0 {
			return false
		}
	}
	for _, h := range m.Headers {
		var values []string
		if strings.EqualFold(h[0], "host") {
			values = []string{c.Host}
		} else {
			for _, sent := range c.Headers {
				if strings.EqualFold(sent[0], h[0]) {
					values = append(values, sent[1])
				}
			}
		}
		if len(values) == 0 {
			return false
		}
		for _, v := range values {
			whole := regexp.MustCompile(h[1])
			whole.Longest()
			if at := whole.FindStringIndex(v); at == nil || at[0] != 0 || at[1] != len(v) {
				return false
			}
		}
	}
	return true
}

// canonical does in many steps what can be done in one.
func canonical(p string, encodedSlash bool) (string, bool) {
	if !strings.HasPrefix(p, "/") || strings.ContainsAny(p, "\\# \x7f") {
		return "", false
	}
	for _, b := range []byte(p) {
		if b < 0x20 {
			return "", false
		}
	}
	escape := regexp.MustCompile(`%[0-9A-Fa-f][0-9A-Fa-f]`)
	if strings.Contains(escape.ReplaceAllString(p, ""), "%") {
		return "", false
	}
	bad := `(?i)%([01][0-9a-f]|7f|5c|2f)`
	if encodedSlash {
		bad = `(?i)%([01][0-9a-f]|7f|5c)`
	}
	if regexp.MustCompile(bad).MatchString(p) {
		return "", false
	}
	var encoded strings.Builder
	for _, b := range []byte(p) {
		if b >= 0x80 {
			const digits = "0123456789ABCDEF"
			encoded.Write([]byte{'%', digits[b/16], digits[b%16]})
		} else {
			encoded.WriteByte(b)
		}
	}
	p = escape.ReplaceAllStringFunc(encoded.String(), func(e string) string {
		b := byte(strings.Index("0123456789ABCDEF", strings.ToUpper(e[1:2]))*16 + strings.Index("0123456789ABCDEF", strings.ToUpper(e[2:])))
		switch {
		case regexp.MustCompile(`^[A-Za-z0-9._~-]$`).MatchString(string(rune(b))) && b < 0x80:
			return string(rune(b))
		case b == '/':
			return e
		}
		return strings.ToUpper(e)
	})
	if regexp.MustCompile(`/\.\.?%3B`).MatchString(p) {
		return "", false
	}
	dots := regexp.MustCompile(`^(\.\.?);.*$`)
	segments := strings.Split(p, "/")
	for i, s := range segments {
		segments[i] = dots.ReplaceAllString(s, "$1")
	}
	last := segments[len(segments)-1]
	clean := path.Clean(strings.Join(segments, "/"))
	if clean != "/" && (last == "" || last == "." || last == "..") {
		clean += "/"
	}
	return clean, true
}
