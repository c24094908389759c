package traefik

import (
	"errors"
	"fmt"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxTemplate keeps expressions that grow while a slash is taken off them from slowing Traefik down.
const maxTemplate = 32 << 10

var errTooLarge = errors.New("expression is too large for a path template")

// pathTemplate turns an expression that is tied to the start of a path (SMI's pathRegex) into a template for Traefik's
// PathPrefix. A template has to begin with a slash that is no part of any expression: what follows it is the rest of the
// expression after it has eaten a slash. any means that every path fits, none that no path can.
func pathTemplate(expr string) (template string, any, none bool, err error) {
	re, err := parse(expr)
	if err != nil {
		return "", false, false, err
	}
	if fitsNothing(re) {
		return "", true, false, nil
	}
	rest := afterSlash(re)
	if rest.Op == syntax.OpNoMatch {
		return "", false, true, nil
	}
	text := "(?:" + braces(rest.String()) + ")"
	if len(text) > maxTemplate {
		return "", false, false, errTooLarge
	}
	if err := compiles("^/(?P<v0>" + text + ")"); err != nil {
		return "", false, false, err
	}
	return "/{path:" + text + "}", false, false, nil
}

// parse reads an expression without its captures, whose names could be those that Traefik gives.
func parse(expr string) (*syntax.Regexp, error) {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return nil, err
	}
	return uncapture(re), nil
}

func uncapture(re *syntax.Regexp) *syntax.Regexp {
	for re.Op == syntax.OpCapture {
		re = re.Sub[0]
	}
	for i, sub := range re.Sub {
		re.Sub[i] = uncapture(sub)
	}
	return re
}

// fitsNothing says whether re fits the nothing before the first slash of a path.
func fitsNothing(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpEmptyMatch, syntax.OpBeginLine, syntax.OpBeginText, syntax.OpNoWordBoundary, syntax.OpStar, syntax.OpQuest:
		return true
	case syntax.OpLiteral:
		return len(re.Rune) == 0
	case syntax.OpPlus:
		return fitsNothing(re.Sub[0])
	case syntax.OpRepeat:
		return re.Min == 0 || fitsNothing(re.Sub[0])
	case syntax.OpConcat:
		for _, sub := range re.Sub {
			if !fitsNothing(sub) {
				return false
			}
		}
		return true
	case syntax.OpAlternate:
		return slices.ContainsFunc(re.Sub, fitsNothing)
	}
	return false
}

// afterSlash is what is left of re after the slash at the start of the text: its derivative. What re says of its place in
// the text (\b, (?m)^) means the same in what is left, as that is at the same place.
func afterSlash(re *syntax.Regexp) *syntax.Regexp {
	switch re.Op {
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return empty()
	case syntax.OpCharClass:
		for i := 0; i < len(re.Rune); i += 2 {
			if re.Rune[i] <= '/' && '/' <= re.Rune[i+1] {
				return empty()
			}
		}
	case syntax.OpLiteral:
		if len(re.Rune) > 0 && re.Rune[0] == '/' {
			return &syntax.Regexp{Op: syntax.OpLiteral, Flags: re.Flags, Rune: re.Rune[1:]}
		}
	case syntax.OpQuest:
		return afterSlash(re.Sub[0])
	case syntax.OpStar, syntax.OpPlus:
		return concat(afterSlash(re.Sub[0]), &syntax.Regexp{Op: syntax.OpStar, Flags: re.Flags, Sub: re.Sub})
	case syntax.OpRepeat:
		return afterSlashRepeat(re)
	case syntax.OpConcat:
		return afterSlashConcat(re.Sub)
	case syntax.OpAlternate:
		return alternate(re.Sub, afterSlash)
	}
	return none()
}

// afterSlashRepeat: the repetition that eats the slash is the first one, or any one if those before it can be of nothing.
func afterSlashRepeat(re *syntax.Regexp) *syntax.Regexp {
	if re.Max == 0 {
		return none()
	}
	rest := &syntax.Regexp{Op: syntax.OpRepeat, Flags: re.Flags, Sub: re.Sub, Min: max(re.Min-1, 0), Max: max(re.Max-1, -1)}
	if re.Max < 0 {
		rest.Max = -1
	}
	if fitsNothing(re.Sub[0]) {
		rest.Min = 0
	}
	switch {
	case rest.Max == 0:
		rest = empty()
	case rest.Min == 0 && rest.Max < 0:
		rest.Op = syntax.OpStar
	}
	return concat(afterSlash(re.Sub[0]), rest)
}

func afterSlashConcat(subs []*syntax.Regexp) *syntax.Regexp {
	var ways []*syntax.Regexp
	for i, sub := range subs {
		ways = append(ways, concat(append([]*syntax.Regexp{afterSlash(sub)}, subs[i+1:]...)...))
		if !fitsNothing(sub) {
			break
		}
	}
	return alternate(ways, func(re *syntax.Regexp) *syntax.Regexp { return re })
}

func empty() *syntax.Regexp { return &syntax.Regexp{Op: syntax.OpEmptyMatch} }
func none() *syntax.Regexp  { return &syntax.Regexp{Op: syntax.OpNoMatch} }

func concat(subs ...*syntax.Regexp) *syntax.Regexp {
	var kept []*syntax.Regexp
	for _, sub := range subs {
		switch {
		case sub.Op == syntax.OpNoMatch:
			return none()
		case sub.Op != syntax.OpEmptyMatch && (sub.Op != syntax.OpLiteral || len(sub.Rune) > 0):
			kept = append(kept, sub)
		}
	}
	switch len(kept) {
	case 0:
		return empty()
	case 1:
		return kept[0]
	}
	return &syntax.Regexp{Op: syntax.OpConcat, Sub: kept}
}

// alternate keeps what is possible of what each makes of subs.
func alternate(subs []*syntax.Regexp, each func(*syntax.Regexp) *syntax.Regexp) *syntax.Regexp {
	var kept []*syntax.Regexp
	for _, sub := range subs {
		if way := each(sub); way.Op != syntax.OpNoMatch {
			kept = append(kept, way)
		}
	}
	switch len(kept) {
	case 0:
		return none()
	case 1:
		return kept[0]
	}
	return &syntax.Regexp{Op: syntax.OpAlternate, Sub: kept}
}

// wholeValue ties an expression for a header's value to both ends. Parsing it closes a quotation (\Q) that is left open.
func wholeValue(expr string) (string, error) {
	re, err := parse(expr)
	if err != nil {
		return "", err
	}
	if strings.Contains(expr, `\Q`) || !isPlain(expr) {
		expr = plain(re.String())
	}
	expr = "^(?:" + expr + ")$"
	return expr, compiles(expr)
}

// hostTemplate is a template for Traefik's HostRegexp, which is blind to case otherwise.
func hostTemplate(expr string) (string, error) {
	re, err := parse(expr)
	if err != nil {
		return "", err
	}
	text := "(?-i:" + braces(re.String()) + ")"
	return "{host:" + text + "}", compiles("(?i)^(?P<v0>" + text + ")$")
}

// compiles says what Traefik's regexp.Compile would: it fails where parsing does, and nowhere else.
func compiles(expr string) error {
	_, err := syntax.Parse(expr, syntax.Perl)
	return err
}

// braces makes an expression, as syntax prints it, fit for a template: templates count braces, escaped or not, and those
// of a repetition are the only ones that come in pairs for sure.
func braces(expr string) string {
	expr = plain(expr)
	if !strings.Contains(expr, `\{`) && !strings.Contains(expr, `\}`) {
		return expr
	}
	var b strings.Builder
	for i := 0; i < len(expr); i++ {
		if expr[i] == '\\' && i+1 < len(expr) {
			i++
			switch expr[i] {
			case '{', '}':
				fmt.Fprintf(&b, `\x%x`, expr[i])
			default:
				b.WriteByte('\\')
				b.WriteByte(expr[i])
			}
			continue
		}
		b.WriteByte(expr[i])
	}
	return b.String()
}

// plain writes what is not ASCII of an expression by number; Traefik refuses it in hosts.
func plain(expr string) string {
	if isPlain(expr) {
		return expr
	}
	var b strings.Builder
	for _, r := range expr {
		if r < utf8.RuneSelf {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\x{%x}`, r)
		}
	}
	return b.String()
}

func isPlain(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= utf8.RuneSelf })
}
