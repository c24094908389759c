package observed

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Generate proposes TrafficTargets and routes that allow what was seen and, but for what a comment calls wider, nothing
// else. What was not seen well enough is named in comments and not proposed. The result is YAML; equal input gives equal
// output.
func Generate(m Merged) []byte {
	var b bytes.Buffer
	proposals := propose(m)
	writeHead(&b, m, proposals)
	for _, p := range proposals {
		p.write(&b)
	}
	return b.Bytes()
}

func writeHead(b *bytes.Buffer, m Merged, proposals []proposal) {
	b.WriteString("# Proposed by tulle policy generate, from calls in audit mode.\n")
	if m.Proxies > 0 {
		fmt.Fprintf(b, "# Runs of proxies that recorded them: %d, from %s to %s.\n", m.Proxies, stamp(m.Since), stamp(m.Until))
	}
	if len(m.Missing) > 0 {
		fmt.Fprintf(b, "# INCOMPLETE: proxies that did not answer: %s\n", strings.Join(m.Missing, ", "))
	}
	b.WriteString("# It allows these calls and no others, except where a comment says \"wider\". Hosts and headers are not looked at.\n" +
		"# What nobody did in that time is not in it: look it through before you apply it.\n")
	if len(proposals) == 0 {
		b.WriteString("# Nothing was seen that could be proposed.\n")
	}
	for _, line := range left(m) {
		fmt.Fprintf(b, "# not proposed: %s\n", line)
	}
	for _, line := range crowded(proposals) {
		fmt.Fprintf(b, "# too much: %s\n", line)
	}
}

// mostMatches is how many matches are tried for one caller of a destination; targets beyond have no effect.
const mostMatches = 1000

// crowded names the callers that get more than that.
func crowded(all []proposal) []string {
	matches := map[string]int{}
	for _, p := range all {
		for _, s := range p.sources {
			matches[s.from+" to "+p.to] += len(p.matches)
		}
	}
	var out []string
	for _, who := range slices.Sorted(maps.Keys(matches)) {
		if n := matches[who]; n > mostMatches {
			out = append(out, fmt.Sprintf("%d matches for %s, of which %d are tried: write wider ones by hand", n, who, mostMatches))
		}
	}
	return out
}

// left says what was seen and is not proposed, and why.
func left(m Merged) []string {
	var out []string
	if m.Lost > 0 {
		out = append(out, fmt.Sprintf("%s between peers that proxies had no room to record: TRUNCATED", calls(m.Lost)))
	}
	for _, e := range m.Edges {
		who := fmt.Sprintf("of %s to %s (Service %s) on port %d by %s", e.caller(), e.To, e.Service, e.Port, e.Protocol)
		if e.Lost > 0 {
			out = append(out, fmt.Sprintf("%s %s that there was no room to record: TRUNCATED", calls(e.Lost), who))
		}
		why := map[string]uint64{}
		for _, c := range e.Calls {
			if w := e.whyNot(c); w != "" {
				why[w] += c.Count
			}
		}
		for w, n := range why {
			out = append(out, fmt.Sprintf("%s %s: %s", calls(n), who, w))
		}
	}
	slices.Sort(out)
	return out
}

// whyNot says why a call is not proposed; empty if it is.
func (e *Edge) whyNot(c Call) string {
	switch {
	case e.From == "":
		return "the caller has no identity (" + string(c.Reason) + ")"
	case e.unnamed():
		return "what is called has no ServiceAccount; give its Service the annotation tulle.dev/service-account"
	case proposable(e.Peers, c):
		return ""
	case c.Path == Unsafe:
		return "the path has no form that a rule could judge (docs/access-control.md, Paths)"
	case c.Path == Long:
		return fmt.Sprintf("the path is longer than %d characters", maxPath)
	case c.Method == Other:
		return "no rule can name the method"
	}
	return "the caller's identity was not certain (" + string(c.Reason) + ")"
}

func (p Peers) caller() string {
	if p.From == "" {
		return "somebody without identity"
	}
	return p.From
}

func (p proposal) write(b *bytes.Buffer) {
	namespace, account, _ := strings.Cut(p.to, "/")
	kind := "TCPRoute"
	if p.protocol == udp {
		kind = "UDPRoute"
	}
	meta := fmt.Sprintf("metadata: {name: %s, namespace: %s}\n", scalar(p.name), scalar(namespace))
	if p.protocol == http {
		fmt.Fprintf(b, "---\napiVersion: specs.smi-spec.io/v1alpha4\nkind: HTTPRouteGroup\n%sspec:\n  matches:\n", meta)
		for i, m := range p.matches {
			m.write(b, i+1)
		}
	}
	fmt.Fprintf(b, "---\napiVersion: specs.smi-spec.io/v1alpha4\nkind: %s\n%sspec: {matches: {ports: [%s]}}\n", kind, meta, join(p.ports))
	fmt.Fprintf(b, "---\napiVersion: access.smi-spec.io/v1alpha3\nkind: TrafficTarget\n%sspec:\n", meta)
	fmt.Fprintf(b, "  destination: {kind: ServiceAccount, name: %s, namespace: %s}\n  rules:\n", scalar(account), scalar(namespace))
	switch p.protocol {
	case http:
		fmt.Fprintf(b, "  - {kind: HTTPRouteGroup, name: %s}\n", scalar(p.name))
		fmt.Fprintf(b, "  - {kind: TCPRoute, name: %s} # which limits the requests above to its ports\n", scalar(p.name))
	case tcp:
		b.WriteString("  # wider: any bytes, and any HTTP request if another Service of the destination serves HTTP on such a port\n")
		fmt.Fprintf(b, "  - {kind: TCPRoute, name: %s}\n", scalar(p.name))
	case udp:
		b.WriteString("  # wider: any datagrams\n")
		fmt.Fprintf(b, "  - {kind: UDPRoute, name: %s}\n", scalar(p.name))
	}
	b.WriteString("  sources:\n")
	for _, s := range p.sources {
		namespace, account, _ := strings.Cut(s.from, "/")
		var seen []string
		for _, port := range p.ports {
			seen = append(seen, fmt.Sprintf("port %d: %s", port, s.seen[port].when()))
		}
		fmt.Fprintf(b, "  - {kind: ServiceAccount, name: %s, namespace: %s} # %s\n", scalar(account), scalar(namespace), strings.Join(seen, "; "))
	}
}

func (m match) write(b *bytes.Buffer, number int) {
	for i, method := range m.methods {
		fmt.Fprintf(b, "  # %s %s: %s\n", method, m.path, m.seen[i].when())
	}
	expr, wider := regexOf(m.path)
	for _, w := range wider {
		fmt.Fprintf(b, "  # wider: %s\n", w)
	}
	if len(m.folded) > 0 {
		fmt.Fprintf(b, "  # %s stands for %d paths, with more than %d names at one place; one is %s\n", m.path, len(m.folded), maxNames, m.folded[0])
	}
	var methods []string
	for _, method := range m.methods {
		methods = append(methods, scalar(method))
	}
	fmt.Fprintf(b, "  - {name: seen-%d, pathRegex: %s, methods: [%s]}\n", number, scalar(expr), strings.Join(methods, ", "))
}

// when is what a comment says of a call.
func (c Call) when() string {
	if stamp(c.First) == stamp(c.Last) {
		return fmt.Sprintf("%s, %s", calls(c.Count), stamp(c.First))
	}
	return fmt.Sprintf("%s, %s to %s", calls(c.Count), stamp(c.First), stamp(c.Last))
}

func calls(n uint64) string {
	if n == 1 {
		return "1 call"
	}
	return fmt.Sprintf("%d calls", n)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func join(ports []uint32) string {
	var out []string
	for _, p := range ports {
		out = append(out, fmt.Sprint(p))
	}
	return strings.Join(out, ", ")
}

// scalar writes a string as YAML, quoted unless it is plainly a string.
func scalar(s string) string {
	inWord := func(c rune) bool { return !notInName(c) || c >= 'A' && c <= 'Z' }
	isLetter := func(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
	special := []string{"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
	if s != "" && isLetter(s[0]) && !strings.ContainsFunc(s, func(c rune) bool { return !inWord(c) }) && !slices.Contains(special, strings.ToLower(s)) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", "''") + "'"
}
