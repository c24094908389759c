package corefile

import (
	"slices"
	"strings"
)

// region is a block of a mesh in a text, or what is left of one.
type region struct {
	mesh       string
	zones      []string
	added      string // the line break that was put in front of it, see Block.render
	begin, end int    // lines of the two markers; 0 if one is missing
}

// regions finds the blocks by their comment lines. Lines within a quoted word are no comments.
func (f *file) regions() []region {
	var out []region
	open := false // the last region waits for its end
	for n := 1; n <= len(f.starts); n++ {
		r, ok := marker(f.line(n))
		if !ok || f.quotedAt(n) {
			continue
		}
		switch last := len(out) - 1; {
		case r.begin != 0:
			r.begin = n
			out = append(out, r)
		case open && out[last].mesh == r.mesh:
			out[last].end = n
		default:
			r.end = n
			out = append(out, r)
		}
		open = r.begin != 0
	}
	return out
}

// marker reads a comment line; begin or end is set to 1.
func marker(line string) (region, bool) {
	comment, ok := strings.CutPrefix(strings.TrimSpace(strings.TrimPrefix(line, "\ufeff")), "# ")
	if !ok {
		return region{}, false
	}
	head, _, _ := strings.Cut(comment, ":")
	words := strings.Fields(head)
	if len(words) < 3 || words[1] != "tulle" {
		return region{}, false
	}
	r := region{mesh: words[2], zones: words[3:]}
	if last := len(r.zones) - 1; last >= 0 && (r.zones[last] == "+lf" || r.zones[last] == "+crlf") {
		r.added, r.zones = r.zones[last], r.zones[:last]
	}
	switch words[0] {
	case "BEGIN":
		r.begin = 1
	case "END":
		r.end = 1
	default:
		return region{}, false
	}
	return r, true
}

// quotedAt is true if line n starts within a quoted word.
func (f *file) quotedAt(n int) bool {
	return slices.ContainsFunc(f.tokens, func(t token) bool { return t.line < n && n <= t.end })
}

// ours says whether a server block is of this region: it serves nothing but the region's zones and sends them on.
func (r region) ours(b block) bool {
	if b.snippet != "" || len(b.keys) == 0 || !b.has("forward") {
		return false
	}
	return !slices.ContainsFunc(b.keys, func(k token) bool { return !slices.Contains(r.zones, parseAddress(k.text).zone) })
}

// cut takes everything that is the mesh's out of the text, and nothing else. What users wrote between the markers stays.
func cut(text, mesh string) (string, error) {
	for {
		f := &file{text: text, starts: lineStarts(text), tokens: tokenize(text)}
		all := f.regions()
		i := slices.IndexFunc(all, func(r region) bool { return r.mesh == mesh })
		if i < 0 {
			return text, nil
		}
		var err error
		if text, err = f.cutRegion(all[i]); err != nil {
			return "", err
		}
	}
}

func (f *file) cutRegion(r region) (string, error) {
	if r.begin == 0 {
		return "", &DamagedError{Line: r.end, Why: "an end without a beginning"}
	}
	last := r.end
	if last == 0 {
		last = len(f.starts)
	}
	from := f.lineEnd(r.begin)
	inside, err := parse(f.text[from:f.lineEnd(last)])
	if err != nil {
		return "", &DamagedError{Line: r.begin, Why: "what follows it does not parse"}
	}
	drop := []lines{{r.begin, r.begin}}
	for _, b := range inside.blocks {
		at := lines{b.first + r.begin, b.end + r.begin}
		switch {
		case !r.ours(b) && r.end == 0: // without an end, only what follows the beginning directly counts
			return f.without(drop...), nil
		case !r.ours(b):
			continue
		case f.shared(at):
			return "", &DamagedError{Line: at.first, Why: "something else is on the same line"}
		}
		drop = append(drop, at)
	}
	if r.end == 0 {
		return f.without(drop...), nil
	}
	drop = append(drop, lines{r.end, r.end})
	if f.blankBetween(drop) {
		return f.withoutAll(r), nil
	}
	return f.without(drop...), nil
}

// lines is a range of lines, both ends included.
type lines struct{ first, last int }

// shared is true if a word outside of the range is on one of its lines.
func (f *file) shared(l lines) bool {
	var at []int
	for i, t := range f.tokens {
		if t.line >= l.first && t.line <= l.last {
			at = append(at, i)
		}
	}
	depth, closed := 0, false
	for _, i := range at {
		if closed {
			return true
		}
		switch f.tokens[i].text {
		case "{":
			depth++
		case "}":
			depth--
			closed = depth == 0
		}
	}
	return len(at) > 0 && at[0] > 0 && f.tokens[at[0]-1].end >= l.first
}

// blankBetween is true if nothing but white space is between the ranges.
func (f *file) blankBetween(drop []lines) bool {
	for i := 1; i < len(drop); i++ {
		if strings.TrimSpace(f.text[f.lineEnd(drop[i-1].last):f.starts[drop[i].first-1]]) != "" {
			return false
		}
	}
	return true
}

func (f *file) without(drop ...lines) string {
	var b strings.Builder
	at := 0
	for _, l := range drop {
		b.WriteString(f.text[at:f.starts[l.first-1]])
		at = f.lineEnd(l.last)
	}
	b.WriteString(f.text[at:])
	return b.String()
}

// withoutAll takes a whole region out, and the line break that was put in front of it, unless something follows.
func (f *file) withoutAll(r region) string {
	before, after := f.text[:f.starts[r.begin-1]], f.text[f.lineEnd(r.end):]
	if after == "" {
		before = strings.TrimSuffix(before, breakOf(r.added))
	}
	return before + after
}

func breakOf(added string) string {
	switch added {
	case "+lf":
		return "\n"
	case "+crlf":
		return "\r\n"
	}
	return ""
}
