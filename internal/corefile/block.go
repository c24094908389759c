package corefile

import (
	"net/netip"
	"slices"
	"strings"
	"unicode"
)

// Block is what is added to a Corefile.
type Block struct {
	Mesh    string       // the mesh's namespace: it names the block
	Zones   []string     // lower case, without trailing dots
	Servers []netip.Addr // the mesh DNS's cluster IPs, the first one first
	// Cache adds a cache with options that CoreDNS knows since 1.10.1 (servfail, serve_stale with verify). Without it
	// there is no cache: newer releases would keep a failure for 5 s.
	Cache bool
	// Listeners are where the zones are to be served; nil = where the Corefile itself serves the root.
	Listeners []Listener
}

// Listener is where a server block listens: on a port (as written, "" is CoreDNS's default) and on what its bind lines say.
type Listener struct {
	Port string
	Bind []string // the arguments of each bind line, as they are written in a Corefile
}

func (l Listener) equal(o Listener) bool { return l.Port == o.Port && slices.Equal(l.Bind, o.Bind) }

// Listeners are where a Corefile serves the root zone over plain DNS, or, if it doesn't, where it serves the cluster.
func Listeners(text string) ([]Listener, error) {
	f, err := parse(text)
	if err != nil {
		return nil, err
	}
	return f.listeners(), nil
}

func (f *file) listeners() []Listener {
	servers := f.servers()
	for _, fits := range []func(block, address) bool{
		func(_ block, a address) bool { return a.zone == "" },
		func(b block, _ address) bool { return b.has("kubernetes") },
	} {
		var out []Listener
		for _, b := range servers {
			for _, k := range b.keys {
				l := b.listener(k.text)
				if a := parseAddress(k.text); a.transport == "dns" && fits(b, a) && !slices.ContainsFunc(out, l.equal) {
					out = append(out, l)
				}
			}
		}
		if len(out) > 0 {
			return out
		}
	}
	return nil
}

func (b block) has(name string) bool {
	return slices.ContainsFunc(b.directives, func(d directive) bool { return d.name == name })
}

func (b block) listener(key string) Listener {
	l := Listener{Port: parseAddress(key).port}
	for _, d := range b.directives {
		if d.name == "bind" {
			l.Bind = append(l.Bind, d.written())
		}
	}
	return l
}

// written is a directive's arguments as they can stand in a Corefile again, braces included.
func (d directive) written() string {
	var b strings.Builder
	fresh := true // at the start of a line
	for i, t := range d.args {
		switch {
		case i > 0 && d.args[i-1].end < t.line:
			b.WriteString("\n        ")
		case !fresh:
			b.WriteByte(' ')
		}
		fresh = false
		b.WriteString(quoted(t.text))
	}
	return b.String()
}

// quoted writes a word so that the lexer reads the same one.
func quoted(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r == '"' || r == '#' || unicode.IsSpace(r) }) {
		return s
	}
	return `"` + strings.ReplaceAll(s, `"`, `\"`) + `"`
}

// render writes the block. added says which line break was put in front of it ("", "+lf" or "+crlf"), so that it is taken
// out again with the block.
func (b Block) render(listeners []Listener, eol, added string) string {
	var out []string
	out = append(out, strings.TrimSuffix("# BEGIN tulle "+b.Mesh+" "+strings.Join(b.Zones, " ")+" "+added, " ")+
		": kept by tulle, changes between these lines are undone")
	for _, zone := range b.Zones {
		for _, same := range byBind(listeners) {
			out = append(out, b.server(zone, same)...)
		}
	}
	out = append(out, "# END tulle "+b.Mesh, "")
	return strings.Join(out, eol)
}

// byBind groups listeners that differ in the port alone: they can share a server block.
func byBind(listeners []Listener) [][]Listener {
	var out [][]Listener
	for _, l := range listeners {
		i := slices.IndexFunc(out, func(o []Listener) bool { return slices.Equal(o[0].Bind, l.Bind) })
		if i < 0 {
			out = append(out, []Listener{l})
			continue
		}
		out[i] = append(out[i], l)
	}
	return out
}

func (b Block) server(zone string, listeners []Listener) []string {
	var keys []string
	for _, l := range listeners {
		key := zone
		if l.Port != "" {
			key += ":" + l.Port
		}
		keys = append(keys, key)
	}
	lines := []string{strings.Join(keys, " ") + " {"}
	for _, args := range listeners[0].Bind {
		lines = append(lines, "    bind "+args)
	}
	lines = append(lines, "    errors")
	if b.Cache {
		lines = append(lines,
			"    cache {",
			"        success 9984 5",
			"        denial 9984 2 1",
			"        servfail 0",
			"        serve_stale 1m verify",
			"    }")
	}
	to := make([]string, len(b.Servers))
	for i, a := range b.Servers {
		to[i] = a.String()
	}
	lines = append(lines, "    forward . "+strings.Join(to, " ")+" {", "        force_tcp", "        expire 5s", "        max_concurrent 1000")
	if len(to) > 1 {
		lines = append(lines, "        policy sequential")
	}
	return append(lines, "    }", "}")
}
