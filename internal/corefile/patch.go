package corefile

import (
	"slices"
	"strings"
)

// Patch returns text with the block in it: in its old place if it is there already, else at the end. Unpatch takes it out
// again. Errors are LayoutError, TakenError, OtherMeshError and DamagedError.
func (b Block) Patch(text string) (string, error) {
	f := &file{text: text, starts: lineStarts(text), tokens: tokenize(text)}
	regions := f.regions()
	for _, r := range regions {
		if r.mesh != b.Mesh {
			return "", &OtherMeshError{Namespace: r.mesh}
		}
	}
	rest, err := cut(text, b.Mesh)
	if err != nil {
		return "", err
	}
	base, err := parse(rest)
	if err != nil {
		return "", err
	}
	if err := base.taken(b.Zones); err != nil {
		return "", err
	}
	if b.Listeners == nil {
		b.Listeners = base.listeners()
	}
	if len(b.Listeners) == 0 {
		return "", &LayoutError{Why: "no server block answers for the root zone"}
	}
	if len(regions) == 1 && regions[0].end != 0 && f.withoutAll(regions[0]) == rest {
		r := regions[0]
		out := text[:f.starts[r.begin-1]] + b.render(b.Listeners, lineBreak(text), r.added) + text[f.lineEnd(r.end):]
		if b.fits(out, base) {
			return out, nil
		}
	}
	eol, added := lineBreak(rest), ""
	if rest != "" && !strings.HasSuffix(rest, "\n") {
		added = map[string]string{"\n": "+lf", "\r\n": "+crlf"}[eol]
	}
	out := rest + breakOf(added) + b.render(b.Listeners, eol, added)
	if !b.fits(out, base) {
		return "", &LayoutError{Why: "what is added at its end would not stand by itself"}
	}
	return out, nil
}

// Unpatch returns text without the mesh's block. A text without one is returned as it is. The error is a DamagedError.
func Unpatch(text, mesh string) (string, error) { return cut(text, mesh) }

// Has is true if the text holds a block of the mesh, or a part of one.
func Has(text, mesh string) bool {
	f := &file{text: text, starts: lineStarts(text), tokens: tokenize(text)}
	return slices.ContainsFunc(f.regions(), func(r region) bool { return r.mesh == mesh })
}

// fits checks a patched text: the block is there as it was meant, everything else reads as before, and can be had back.
func (b Block) fits(out string, base *file) bool {
	back, err := cut(out, b.Mesh)
	if err != nil || back != base.text {
		return false
	}
	f, err := parse(out)
	if err != nil || !slices.EqualFunc(f.imports, base.imports, sameText) {
		return false
	}
	regions := f.regions()
	if len(regions) != 1 || regions[0].begin == 0 || regions[0].end == 0 {
		return false
	}
	groups := byBind(b.Listeners)
	var theirs, ours []block
	for _, s := range f.blocks {
		if s.first > regions[0].begin && s.end < regions[0].end {
			ours = append(ours, s)
			continue
		}
		theirs = append(theirs, s)
	}
	if !slices.EqualFunc(theirs, base.blocks, sameBlock) || len(ours) != len(b.Zones)*len(groups) {
		return false
	}
	for i, s := range ours {
		if !b.means(s, b.Zones[i/len(groups)], groups[i%len(groups)]) {
			return false
		}
	}
	return true
}

// means is true if the server block serves the zone where it should.
func (b Block) means(s block, zone string, listeners []Listener) bool {
	return len(s.keys) == len(listeners) && !slices.ContainsFunc(s.keys, func(k token) bool {
		return parseAddress(k.text).zone != zone || !slices.ContainsFunc(listeners, s.listener(k.text).equal)
	})
}

func sameText(a, b token) bool { return a.text == b.text }

func sameBlock(a, b block) bool {
	return slices.EqualFunc(a.keys, b.keys, sameText) && slices.EqualFunc(a.directives, b.directives, func(a, b directive) bool {
		return a.name == b.name && slices.EqualFunc(a.args, b.args, sameText)
	})
}

// lineBreak is the one that text uses.
func lineBreak(text string) string {
	if i := strings.IndexByte(text, '\n'); i > 0 && text[i-1] == '\r' {
		return "\r\n"
	}
	return "\n"
}

// BlockOf returns the mesh's block as it stands in a text, "" if there is none.
func BlockOf(text, mesh string) string {
	f := &file{text: text, starts: lineStarts(text), tokens: tokenize(text)}
	for _, r := range f.regions() {
		if r.mesh == mesh && r.begin != 0 && r.end != 0 {
			return text[f.starts[r.begin-1]:f.lineEnd(r.end)]
		}
	}
	return ""
}
