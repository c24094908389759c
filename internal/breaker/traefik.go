package breaker

import (
	"math"
	"strconv"
	"strings"
)

// ForTraefik is the expression as Traefik's own parser takes it: it knows neither negation nor brackets, and wants latencies
// to be compared with whole numbers, everything else with fractions.
func (e *Expression) ForTraefik() string {
	var terms []string // of 16 comparisons at most 324
	for _, conjunction := range e.root.terms(false) {
		var factors []string
		for _, c := range conjunction {
			factors = append(factors, c.forTraefik())
		}
		terms = append(terms, strings.Join(factors, " && "))
	}
	return strings.Join(terms, " || ")
}

func (n either) terms(negated bool) [][]comparison {
	if negated {
		return product(n.a.terms(true), n.b.terms(true))
	}
	return append(n.a.terms(false), n.b.terms(false)...)
}

func (n both) terms(negated bool) [][]comparison {
	if negated {
		return append(n.a.terms(true), n.b.terms(true)...)
	}
	return product(n.a.terms(false), n.b.terms(false))
}

func (n not) terms(negated bool) [][]comparison { return n.a.terms(!negated) }

func (n comparison) terms(negated bool) [][]comparison {
	if negated {
		n.operator = map[string]string{">": "<=", "<=": ">", "<": ">=", ">=": "<", "==": "!=", "!=": "=="}[n.operator]
	}
	return [][]comparison{{n}}
}

func product(a, b [][]comparison) [][]comparison {
	var out [][]comparison
	for _, x := range a {
		for _, y := range b {
			out = append(out, append(append([]comparison(nil), x...), y...))
		}
	}
	return out
}

func (n comparison) forTraefik() string {
	q, ok := n.measure.(latencyAt)
	if !ok {
		return n.measure.text() + " " + n.operator + " " + fraction(n.limit)
	}
	// Latencies are counted in whole milliseconds there.
	operator, limit := n.operator, math.Floor(n.limit)
	if limit != n.limit {
		switch operator {
		case ">=":
			operator = ">"
		case "<":
			operator = "<="
		case "==": // never
			operator, limit = "<", 0
		case "!=": // always
			operator, limit = ">=", 0
		}
	}
	return "LatencyAtQuantileMS(" + fraction(float64(q)) + ") " + operator + " " + strconv.FormatFloat(limit, 'f', 0, 64)
}

// fraction writes a number so that it is not taken for a whole one.
func fraction(f float64) string {
	s := number(f)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}
