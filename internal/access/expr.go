package access

import (
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode/utf8"
)

// expr is a compiled expression. Most say no more than what a text begins with, or what it is, and are not worth a search.
type expr struct {
	re      *regexp.Regexp
	literal string
	kind    exprKind
}

type exprKind int

const (
	general exprKind = iota
	begins           // with the literal
	equals           // the literal
)

func newExpr(source string) (*expr, error) {
	re, err := regexp.Compile(source)
	if err != nil {
		return nil, err //nolint:wrapcheck // says all
	}
	e := &expr{re: re}
	if tree, err := syntax.Parse(source, syntax.Perl); err == nil {
		e.kind, e.literal = simple(tree)
	}
	return e, nil
}

// MatchString is regexp's.
func (e *expr) MatchString(s string) bool {
	switch e.kind {
	case begins:
		return strings.HasPrefix(s, e.literal)
	case equals:
		return s == e.literal
	case general:
	}
	return e.re.MatchString(s)
}

// simple says what an expression comes to that is anchored, has one literal, and nothing else that has to be there.
func simple(tree *syntax.Regexp) (exprKind, string) {
	parts := flat(nil, tree)
	if len(parts) == 0 || parts[0].Op != syntax.OpBeginText {
		return general, ""
	}
	parts = parts[1:]
	var literal strings.Builder
	for len(parts) > 0 && parts[0].Op == syntax.OpLiteral {
		// An invalid byte of a text is as good as the rune that stands for it.
		if parts[0].Flags&syntax.FoldCase != 0 || slices.Contains(parts[0].Rune, utf8.RuneError) {
			return general, ""
		}
		literal.WriteString(string(parts[0].Rune))
		parts = parts[1:]
	}
	if len(parts) == 1 && parts[0].Op == syntax.OpEndText {
		return equals, literal.String()
	}
	for _, p := range parts {
		if p.Op != syntax.OpStar && p.Op != syntax.OpQuest { // which match nothing, too
			return general, ""
		}
	}
	return begins, literal.String()
}

// flat adds the parts of a sequence of sequences.
func flat(to []*syntax.Regexp, tree *syntax.Regexp) []*syntax.Regexp {
	switch tree.Op {
	case syntax.OpConcat, syntax.OpCapture:
		for _, part := range tree.Sub {
			to = flat(to, part)
		}
		return to
	case syntax.OpEmptyMatch:
		return to
	}
	return append(to, tree)
}
