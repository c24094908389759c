package breaker

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// What an expression may be at most.
const (
	maxLength      = 1024
	maxComparisons = 16
	maxDepth       = 16
)

// Parse reads an expression: comparisons of a function with a number, joined by && and || and negated by !. The names
// of functions are read in any case. Errors are for people.
func Parse(s string) (*Expression, error) {
	if len(s) > maxLength {
		return nil, fmt.Errorf("longer than %d characters", maxLength)
	}
	tokens, err := scan(s)
	if err != nil {
		return nil, err
	}
	p := &parser{tokens: tokens, e: &Expression{}}
	p.e.root = p.disjunction(0)
	if p.err == nil && p.peek() != "" {
		p.fail("&& or ||, or the end")
	}
	if p.err != nil {
		return nil, p.err
	}
	return p.e, nil
}

// scan splits an expression into names, numbers, operators and brackets.
func scan(s string) ([]string, error) {
	var out []string
	for s = strings.TrimLeft(s, " \t"); s != ""; s = strings.TrimLeft(s, " \t") {
		n := 0
		switch {
		case letter(s[0]):
			for n < len(s) && (letter(s[n]) || digit(s[n])) {
				n++
			}
		case digit(s[0]) || s[0] == '.':
			for n < len(s) && (digit(s[n]) || s[n] == '.') {
				n++
			}
		case len(s) > 1 && slices.Contains([]string{"&&", "||", ">=", "<=", "==", "!="}, s[:2]):
			n = 2
		case strings.IndexByte("()<>,!", s[0]) >= 0:
			n = 1
		default:
			return nil, fmt.Errorf("%q is no part of an expression", string([]rune(s)[0]))
		}
		out = append(out, s[:n])
		s = s[n:]
	}
	return out, nil
}

func letter(b byte) bool { return b|0x20 >= 'a' && b|0x20 <= 'z' }
func digit(b byte) bool  { return b >= '0' && b <= '9' }

// parser reads tokens. After the first error nothing that it returns is of use.
type parser struct {
	tokens      []string
	e           *Expression
	comparisons int
	err         error
}

func (p *parser) peek() string {
	if len(p.tokens) == 0 {
		return ""
	}
	return p.tokens[0]
}

func (p *parser) next() {
	if len(p.tokens) > 0 {
		p.tokens = p.tokens[1:]
	}
}

// fail notes what was expected where the next token is.
func (p *parser) fail(want string) {
	if p.err != nil {
		return
	}
	if t := p.peek(); t != "" {
		p.err = fmt.Errorf("%q stands where %s is expected", t, want)
	} else {
		p.err = fmt.Errorf("it ends where %s is expected", want)
	}
}

func (p *parser) expect(token string) {
	if p.peek() != token {
		p.fail(strconv.Quote(token))
		return
	}
	p.next()
}

func (p *parser) disjunction(depth int) node {
	n := p.conjunction(depth)
	for p.err == nil && p.peek() == "||" {
		p.next()
		n = either{n, p.conjunction(depth)}
	}
	return n
}

func (p *parser) conjunction(depth int) node {
	n := p.negation(depth)
	for p.err == nil && p.peek() == "&&" {
		p.next()
		n = both{n, p.negation(depth)}
	}
	return n
}

func (p *parser) negation(depth int) node {
	if depth > maxDepth {
		p.err = fmt.Errorf("more than %d levels of brackets", maxDepth)
		return nil
	}
	switch p.peek() {
	case "!":
		p.next()
		return not{p.negation(depth + 1)}
	case "(":
		p.next()
		n := p.disjunction(depth + 1)
		p.expect(")")
		return n
	}
	return p.comparison()
}

func (p *parser) comparison() node {
	if p.comparisons++; p.comparisons > maxComparisons {
		p.err = fmt.Errorf("more than %d comparisons", maxComparisons)
		return nil
	}
	m := p.measure()
	if p.err != nil {
		return nil
	}
	operator := p.peek()
	if !slices.Contains([]string{">", ">=", "<", "<=", "==", "!="}, operator) {
		p.fail("one of > >= < <= == !=")
		return nil
	}
	p.next()
	return comparison{m, operator, p.number("a number")}
}

func (p *parser) measure() measure {
	name := p.peek()
	switch strings.ToLower(name) {
	case "networkerrorratio":
		p.arguments()
		return networkErrors{}
	case "latencyatquantilems":
		a := p.arguments("a percentage")
		if p.err == nil && a[0] > 100 {
			p.err = fmt.Errorf("%s(%s): a percentage is at most 100", name, number(a[0]))
		}
		if p.err != nil {
			return nil
		}
		p.e.latency = true
		return latencyAt(a[0])
	case "responsecoderatio":
		a := p.arguments("a status", "a status", "a status", "a status")
		if p.err != nil {
			return nil
		}
		return p.ratioOf(name, a)
	}
	p.fail("NetworkErrorRatio, LatencyAtQuantileMS or ResponseCodeRatio")
	return nil
}

func (p *parser) ratioOf(name string, a []float64) measure {
	var m responseCodes
	for i := range m.ranges {
		from, to := a[2*i], a[2*i+1]
		if from != float64(int(from)) || to != float64(int(to)) || from >= to || to > 1000 {
			p.err = fmt.Errorf("%s: %s to %s is no range of statuses", name, number(from), number(to))
			return nil
		}
		m.ranges[i] = statuses{int(from), int(to)}
	}
	m.some, m.among = p.rangeOf(m.ranges[0]), p.rangeOf(m.ranges[1])
	return m
}

// rangeOf returns the place of a range among the expression's.
func (p *parser) rangeOf(s statuses) int {
	if i := slices.Index(p.e.ranges, s); i >= 0 {
		return i
	}
	p.e.ranges = append(p.e.ranges, s)
	return len(p.e.ranges) - 1
}

// arguments reads the name of a function and what it is asked for.
func (p *parser) arguments(want ...string) []float64 {
	p.next()
	p.expect("(")
	var out []float64
	for i, w := range want {
		if i > 0 {
			p.expect(",")
		}
		out = append(out, p.number(w))
	}
	p.expect(")")
	return out
}

func (p *parser) number(want string) float64 {
	if p.err != nil {
		return 0
	}
	n, err := strconv.ParseFloat(p.peek(), 64)
	if t := p.peek(); err != nil || t == "" || !digit(t[0]) && t[0] != '.' {
		p.fail(want)
		return 0
	}
	p.next()
	return n
}
