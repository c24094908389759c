package corefile

import (
	"slices"
	"strings"

	"github.com/coredns/caddy/caddyfile"
)

// token is a word of a Corefile as CoreDNS's own lexer sees it.
type token struct {
	text      string
	line, end int // 1-based; end is larger only for quoted words that span lines
}

// directive is one line (and its braces) of a server block.
type directive struct {
	name string
	line int
	args []token // on its own line, and, if it has a body, the braces and all between
}

// block is a server block or a snippet.
type block struct {
	keys       []token
	snippet    string // its name; then it is no server block
	directives []directive
	first, end int // lines
}

// file is a Corefile taken apart. It covers what can be edited safely: CoreDNS's parser accepts more (blocks without
// braces, a last brace that is missing), which cannot be added to and is a LayoutError here.
type file struct {
	text    string
	starts  []int // byte offset of every line
	tokens  []token
	blocks  []block
	imports []token // patterns of files that are imported outside of server blocks
}

// tokenize splits text into words. Environment variables stay as they are written: they are CoreDNS's, not ours.
func tokenize(text string) []token {
	var tokens []token
	d := caddyfile.NewDispenser("Corefile", strings.NewReader(text))
	for d.Next() {
		t := token{text: d.Val(), line: d.Line()}
		t.end = t.line + strings.Count(t.text, "\n")
		tokens = append(tokens, t)
	}
	return tokens
}

// parse takes a Corefile apart.
func parse(text string) (*file, error) {
	f := &file{text: text, starts: lineStarts(text), tokens: tokenize(text)}
	p := parser{tokens: f.tokens}
	for !p.done() {
		if t := p.peek(); t.text == "import" && p.onNewLine() {
			p.next()
			if p.done() || p.onNewLine() {
				return nil, &LayoutError{Line: t.line, Why: "import names nothing"}
			}
			f.imports = append(f.imports, p.next())
			if !p.done() && !p.onNewLine() {
				return nil, &LayoutError{Line: t.line, Why: "import names more than one file"}
			}
			continue
		}
		b, err := p.block()
		if err != nil {
			return nil, err
		}
		f.blocks = append(f.blocks, b)
	}
	return f, nil
}

type parser struct {
	tokens []token
	at     int
}

func (p *parser) done() bool  { return p.at >= len(p.tokens) }
func (p *parser) peek() token { return p.tokens[p.at] }

func (p *parser) next() token {
	t := p.tokens[p.at]
	p.at++
	return t
}

// onNewLine is true if the next word is the first one of its line.
func (p *parser) onNewLine() bool { return p.at == 0 || p.tokens[p.at-1].end < p.tokens[p.at].line }

func (p *parser) block() (block, error) {
	b := block{first: p.peek().line}
	for more := true; more; {
		t := p.next()
		switch {
		case t.text == "{" || t.text == "}":
			return b, &LayoutError{Line: t.line, Why: "a brace where a zone was expected"}
		case t.text == "import" && len(b.keys) > 0 && p.tokens[p.at-2].end < t.line:
			return b, &LayoutError{Line: t.line, Why: "import within a list of zones"}
		}
		name, comma := strings.CutSuffix(t.text, ",")
		if name != "" {
			b.keys = append(b.keys, token{text: name, line: t.line, end: t.end})
		}
		if p.done() {
			return b, &LayoutError{Line: t.line, Why: "a server block without braces"}
		}
		more = p.peek().text != "{" && (comma || !p.onNewLine())
		if comma && p.peek().text == "{" {
			return b, &LayoutError{Line: t.line, Why: "a comma after the last zone"}
		}
	}
	if p.peek().text != "{" {
		return b, &LayoutError{Line: b.first, Why: "a server block without braces"}
	}
	p.next()
	if k := b.keys; len(k) == 1 && len(k[0].text) > 1 && k[0].text[0] == '(' && strings.HasSuffix(k[0].text, ")") {
		b.snippet = k[0].text[1 : len(k[0].text)-1]
	}
	var err error
	b.directives, b.end, err = p.directives(b.first)
	return b, err
}

// directives reads up to the brace that ends a server block.
func (p *parser) directives(first int) ([]directive, int, error) {
	var out []directive
	for !p.done() {
		t := p.next()
		if t.text == "}" {
			return out, t.end, nil
		}
		if t.text == "{" {
			return nil, 0, &LayoutError{Line: t.line, Why: "a brace where a plugin was expected"}
		}
		args, err := p.args(t.line)
		if err != nil {
			return nil, 0, err
		}
		out = append(out, directive{name: t.text, line: t.line, args: args})
	}
	return nil, 0, &LayoutError{Line: first, Why: "a server block that is never closed"}
}

// args reads what belongs to a directive: the rest of its line, and what is in braces that open there.
func (p *parser) args(line int) ([]token, error) {
	var out []token
	depth := 0
	for ; !p.done(); out = append(out, p.next()) {
		switch t := p.peek(); {
		case t.text == "{":
			depth++
		case depth == 0 && p.onNewLine():
			return out, nil
		case t.text == "}" && depth > 0:
			depth--
		case t.text == "}":
			return nil, &LayoutError{Line: t.line, Why: "a closing brace that nothing opened"}
		}
	}
	if depth > 0 {
		return nil, &LayoutError{Line: line, Why: "a brace that is never closed"}
	}
	return out, nil
}

// params are the words of a directive up to its braces.
func (d directive) params() []token {
	if i := slices.IndexFunc(d.args, func(t token) bool { return t.text == "{" }); i >= 0 {
		return d.args[:i]
	}
	return d.args
}

// servers are the server blocks, with the directives of imported snippets in their place.
func (f *file) servers() []block {
	snippets := map[string][]directive{}
	var out []block
	for _, b := range f.blocks {
		b.directives = expand(b.directives, snippets)
		if b.snippet != "" {
			snippets[b.snippet] = b.directives
			continue
		}
		out = append(out, b)
	}
	return out
}

// expand is not recursive: snippets that import snippets were expanded when they were declared.
func expand(in []directive, snippets map[string][]directive) []directive {
	var out []directive
	for _, d := range in {
		if s, ok := snippets[importOf(d)]; ok {
			out = append(out, s...)
			continue
		}
		out = append(out, d)
	}
	return out
}

func importOf(d directive) string {
	if d.name != "import" || len(d.args) != 1 {
		return ""
	}
	return d.args[0].text
}

func lineStarts(text string) []int {
	starts := []int{0}
	for i := range len(text) {
		if text[i] == '\n' {
			starts = append(starts, i+1)
		}
	}
	return starts
}

// line returns line n without its line break.
func (f *file) line(n int) string {
	return strings.TrimRight(f.text[f.starts[n-1]:f.lineEnd(n)], "\r\n")
}

// lineEnd is the offset after line n and its line break.
func (f *file) lineEnd(n int) int {
	if n < len(f.starts) {
		return f.starts[n]
	}
	return len(f.text)
}
