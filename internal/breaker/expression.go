package breaker

import (
	"strconv"
	"time"
)

// Expression is a condition on a service's last answers. It is immutable.
type Expression struct {
	root    node
	ranges  []statuses // that it asks about
	latency bool       // it asks about latencies
}

// String is the expression in its one form.
func (e *Expression) String() string { return e.root.text(lowest) }

func (e *Expression) holds(c counts) bool { return e.root.holds(&c) }

// node is a part of an expression that is true or false.
type node interface {
	holds(c *counts) bool
	// text is the node as it is written within an operator of a strength.
	text(within int) string
	// terms are the node, or its opposite, as alternatives of comparisons that all have to hold.
	terms(negated bool) [][]comparison
}

// The strengths of operators.
const (
	lowest = iota
	disjunction
	conjunction
	negation
)

type either struct{ a, b node }

func (n either) holds(c *counts) bool { return n.a.holds(c) || n.b.holds(c) }
func (n either) text(within int) string {
	return enclose(n.a.text(disjunction)+" || "+n.b.text(disjunction), within > disjunction)
}

type both struct{ a, b node }

func (n both) holds(c *counts) bool { return n.a.holds(c) && n.b.holds(c) }
func (n both) text(within int) string {
	return enclose(n.a.text(conjunction)+" && "+n.b.text(conjunction), within > conjunction)
}

type not struct{ a node }

func (n not) holds(c *counts) bool { return !n.a.holds(c) }
func (n not) text(int) string      { return "!" + n.a.text(negation) }

func enclose(s string, needed bool) string {
	if needed {
		return "(" + s + ")"
	}
	return s
}

// comparison compares what was measured with a number.
type comparison struct {
	measure  measure
	operator string
	limit    float64
}

func (n comparison) holds(c *counts) bool {
	v := n.measure.of(c)
	switch n.operator {
	case ">":
		return v > n.limit
	case ">=":
		return v >= n.limit
	case "<":
		return v < n.limit
	case "<=":
		return v <= n.limit
	case "==":
		return v == n.limit
	}
	return v != n.limit
}

func (n comparison) text(within int) string {
	return enclose(n.measure.text()+" "+n.operator+" "+number(n.limit), within == negation)
}

func number(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// measure is a number about the last answers.
type measure interface {
	of(c *counts) float64
	text() string
}

// networkErrors is the share of calls that got no answer.
type networkErrors struct{}

func (networkErrors) of(c *counts) float64 { return ratio(c.network, c.all) }
func (networkErrors) text() string         { return "NetworkErrorRatio()" }

// responseCodes is how many answers have a status of one range, relative to another.
type responseCodes struct {
	some, among int // of the expression's ranges
	ranges      [2]statuses
}

func (m responseCodes) of(c *counts) float64 { return ratio(c.within[m.some], c.within[m.among]) }
func (m responseCodes) text() string {
	return "ResponseCodeRatio(" + m.ranges[0].text() + ", " + m.ranges[1].text() + ")"
}

// latencyAt is a quantile of the latencies, in milliseconds.
type latencyAt float64

func (m latencyAt) of(c *counts) float64 {
	return float64(c.quantile(float64(m))) / float64(time.Millisecond)
}
func (m latencyAt) text() string { return "LatencyAtQuantileMS(" + number(float64(m)) + ")" }

// statuses are those from one up to, and without, another.
type statuses struct{ from, to int }

func (s statuses) has(status int) bool { return s.from <= status && status < s.to }
func (s statuses) text() string        { return strconv.Itoa(s.from) + ", " + strconv.Itoa(s.to) }

// ratio is 0 if there is nothing to divide by.
func ratio(some, of uint32) float64 {
	if of == 0 {
		return 0
	}
	return float64(some) / float64(of)
}
