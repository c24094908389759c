package breaker

import (
	"math/rand/v2"
	"strings"
	"testing"
)

func TestForTraefik(t *testing.T) {
	for in, want := range map[string]string{
		"NetworkErrorRatio() > 1":                                      "NetworkErrorRatio() > 1.0",
		"ResponseCodeRatio(500, 600, 0, 600) > 0.25":                   "ResponseCodeRatio(500, 600, 0, 600) > 0.25",
		"LatencyAtQuantileMS(50) > 100":                                "LatencyAtQuantileMS(50.0) > 100",
		"LatencyAtQuantileMS(99.9) >= 100.5":                           "LatencyAtQuantileMS(99.9) > 100",
		"LatencyAtQuantileMS(50) == 0.5":                               "LatencyAtQuantileMS(50.0) < 0",
		"!(NetworkErrorRatio() > 0.5 || LatencyAtQuantileMS(50) == 1)": "NetworkErrorRatio() <= 0.5 && LatencyAtQuantileMS(50.0) != 1",
		"(NetworkErrorRatio() > 0.1 || NetworkErrorRatio() > 0.2) && !(NetworkErrorRatio() < 0.3 && NetworkErrorRatio() < 0.4)": "NetworkErrorRatio() > 0.1 && NetworkErrorRatio() >= 0.3 || NetworkErrorRatio() > 0.1 && NetworkErrorRatio() >= 0.4 || " +
			"NetworkErrorRatio() > 0.2 && NetworkErrorRatio() >= 0.3 || NetworkErrorRatio() > 0.2 && NetworkErrorRatio() >= 0.4",
	} {
		if got := parse(t, in).ForTraefik(); got != want {
			t.Errorf("%s:\n got %s\nwant %s", in, got, want)
		}
	}
}

// What is written for Traefik means the same.
func TestForTraefikMeansTheSame(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	held := 0
	for range 1000 {
		e := parse(t, randomExpression(r, 2))
		again := parse(t, e.ForTraefik())
		if text := again.String(); strings.Contains(text, "!(") {
			t.Fatalf("%s became %s", e, text)
		}
		for range 10 {
			c := counts{all: 4, network: uint32(r.IntN(5)), within: []uint32{uint32(r.IntN(5)), 4}}
			if got, want := again.holds(c), e.holds(c); got != want {
				t.Fatalf("%s is %v, %s is %v of %v", e, want, again, got, c)
			} else if got {
				held++
			}
		}
	}
	if held < 1000 || held > 9000 {
		t.Errorf("%d of 10,000 held", held)
	}
}

// randomExpression has one pair of ranges of statuses, so that all number them alike.
func randomExpression(r *rand.Rand, depth int) string {
	if depth == 0 {
		measure := []string{"NetworkErrorRatio()", "ResponseCodeRatio(500, 600, 0, 600)"}[r.IntN(2)]
		operator := []string{">", ">=", "<", "<=", "==", "!="}[r.IntN(6)]
		return measure + " " + operator + " " + []string{"0", "0.25", "0.5", "1"}[r.IntN(4)]
	}
	s := "(" + randomExpression(r, depth-1) + []string{" && ", " || "}[r.IntN(2)] + randomExpression(r, depth-1) + ")"
	if r.IntN(2) == 0 {
		s = "!" + s
	}
	return s
}

func parse(t *testing.T, s string) *Expression {
	t.Helper()
	e, err := Parse(s)
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return e
}
