package corefile

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// mentions are plugins that name zones without answering for them.
var mentions = []string{
	"acl", "any", "autopath", "bind", "bufsize", "cache", "cancel", "chaos", "debug", "dns64", "dnssec", "dnstap", "errors",
	"geoip", "header", "health", "https", "import", "loadbalance", "local", "log", "loop", "metadata", "minimal", "multisocket",
	"nsid", "pprof", "prometheus", "quic", "ready", "reload", "root", "sign", "timeouts", "tls", "trace", "transfer", "tsig", "view",
}

// Taken says whether somebody else serves one of the zones, or a name below one, in a Corefile (nil or a TakenError). The
// mesh's own block doesn't count. Text that does not parse is a LayoutError or DamagedError.
func Taken(text, mesh string, zones []string) error {
	rest, err := cut(text, mesh)
	if err != nil {
		return err
	}
	f, err := parse(rest)
	if err != nil {
		return err
	}
	return f.taken(zones)
}

// TakenInside is Taken for a file that is imported into a server block: it holds plugins only.
func TakenInside(text string, zones []string) error {
	return Taken(". { "+text+"\n}", "", zones)
}

func (f *file) taken(zones []string) error {
	for _, zone := range zones {
		for _, b := range f.blocks {
			if b.snippet == "" {
				for _, k := range b.keys {
					if within(parseAddress(k.text).zone, zone) {
						return &TakenError{Zone: zone, Where: fmt.Sprintf("server block %s (line %d)", k.text, k.line)}
					}
				}
			}
			for _, d := range b.directives {
				if name, ok := d.serves(zone); ok {
					return &TakenError{Zone: zone, Where: fmt.Sprintf("plugin %s for %s (line %d)", d.name, name.text, name.line)}
				}
			}
		}
	}
	return nil
}

// serves finds a word that says that the plugin answers for the zone or a name in it.
func (d directive) serves(zone string) (token, bool) {
	if slices.Contains(mentions, d.name) {
		return token{}, false
	}
	words := d.params()
	switch d.name {
	case "hosts": // entries may stand in its braces
		words = d.args
	case "rewrite": // to a name of the mesh is fine
		words = rewritten(words)
	}
	i := slices.IndexFunc(words, func(t token) bool {
		return within(parseAddress(strings.TrimPrefix(t.text, ".")).zone, zone)
	})
	if i < 0 {
		return token{}, false
	}
	return words[i], true
}

// rewritten is the name that a rewrite takes away: rewrite [continue|stop] name [exact|prefix|...] FROM TO.
func rewritten(words []token) []token {
	i := slices.IndexFunc(words, func(t token) bool { return t.text == "name" }) + 1
	if i > 0 && i < len(words) && slices.Contains([]string{"exact", "prefix", "suffix", "substring", "regex"}, words[i].text) {
		i++
	}
	if i == 0 || i >= len(words) {
		return nil
	}
	return words[i : i+1]
}

// Reloads says how often CoreDNS looks for a changed file: the longest interval (with its jitter) of the plugin reload in
// the texts, 0 if none has it. Texts may be Corefiles or files that are imported into a server block.
func Reloads(texts ...string) time.Duration {
	longest := time.Duration(0)
	for _, text := range texts {
		f, err := parse(text)
		if err != nil || len(f.blocks) == 0 {
			if f, err = parse(". { " + text + "\n}"); err != nil {
				continue
			}
		}
		for _, b := range f.blocks {
			for _, d := range b.directives {
				if d.name == "reload" {
					longest = max(longest, d.interval())
				}
			}
		}
	}
	return longest
}

// interval reads reload [INTERVAL] [JITTER]; the jitter is at most half of the interval.
func (d directive) interval() time.Duration {
	every := 30 * time.Second
	if len(d.args) > 0 {
		if given, err := time.ParseDuration(d.args[0].text); err == nil {
			every = given
		}
	}
	return every + every/2
}
