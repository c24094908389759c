package breaker

import (
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	for in, want := range map[string]string{
		"NetworkErrorRatio() > 0.30":                 "NetworkErrorRatio() > 0.3",
		"networkerrorratio()>.3":                     "NetworkErrorRatio() > 0.3",
		"LatencyAtQuantileMS(50.0) > 100":            "LatencyAtQuantileMS(50) > 100",
		" latencyatquantilems( 99.9 )<=\t2 ":         "LatencyAtQuantileMS(99.9) <= 2",
		"ResponseCodeRatio(500, 600, 0, 600) > 0.25": "ResponseCodeRatio(500, 600, 0, 600) > 0.25",
		"NetworkErrorRatio() == 1 || NetworkErrorRatio() != 0 && LatencyAtQuantileMS(1) >= 2": "NetworkErrorRatio() == 1 || NetworkErrorRatio() != 0 && LatencyAtQuantileMS(1) >= 2",
		"(NetworkErrorRatio() > 1 || NetworkErrorRatio() > 2) && NetworkErrorRatio() > 3":     "(NetworkErrorRatio() > 1 || NetworkErrorRatio() > 2) && NetworkErrorRatio() > 3",
		"((NetworkErrorRatio() > 1))":                            "NetworkErrorRatio() > 1",
		"!(NetworkErrorRatio() > 1 && !NetworkErrorRatio() < 2)": "!(NetworkErrorRatio() > 1 && !(NetworkErrorRatio() < 2))",
	} {
		e, err := Parse(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if got := e.String(); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for in, want := range map[string]string{
		"":                                    "it ends where NetworkErrorRatio, LatencyAtQuantileMS or ResponseCodeRatio is expected",
		"x":                                   `"x" stands where NetworkErrorRatio, LatencyAtQuantileMS or ResponseCodeRatio is expected`,
		"NetworkErrorRatio":                   `it ends where "(" is expected`,
		"NetworkErrorRatio() > ":              "it ends where a number is expected",
		"NetworkErrorRatio() > x":             `"x" stands where a number is expected`,
		"NetworkErrorRatio() > 1.2.3":         `"1.2.3" stands where a number is expected`,
		"NetworkErrorRatio() > inf":           `"inf" stands where a number is expected`,
		"NetworkErrorRatio() 0.5":             `"0.5" stands where one of > >= < <= == != is expected`,
		"NetworkErrorRatio(1) > 0.5":          `"1" stands where ")" is expected`,
		"NetworkErrorRatio() > 0.5 0.5":       `"0.5" stands where && or ||, or the end is expected`,
		"NetworkErrorRatio() > 0.5 && ":       "it ends where NetworkErrorRatio, LatencyAtQuantileMS or ResponseCodeRatio is expected",
		"(NetworkErrorRatio() > 0.5":          `it ends where ")" is expected`,
		"NetworkErrorRatio() > 0.5 & 1":       `"&" is no part of an expression`,
		"NetworkErrorRatio() > 0.5; é":        `";" is no part of an expression`,
		"é":                                   `"é" is no part of an expression`,
		"LatencyAtQuantileMS() > 1":           `")" stands where a percentage is expected`,
		"LatencyAtQuantileMS(101) > 1":        "latencyatquantilems(101): a percentage is at most 100",
		"LatencyAtQuantileMS(-1) > 1":         `"-" is no part of an expression`,
		"ResponseCodeRatio(1, 2, 3) > 1":      `")" stands where "," is expected`,
		"ResponseCodeRatio(2, 1, 3, 4) > 1":   "responsecoderatio: 2 to 1 is no range of statuses",
		"ResponseCodeRatio(0.5, 1, 3, 4) > 1": "responsecoderatio: 0.5 to 1 is no range of statuses",
		strings.Repeat("(", 20):               "more than 16 levels of brackets",
		strings.Repeat("!", 20):               "more than 16 levels of brackets",
		strings.Repeat("x", 1025):             "longer than 1024 characters",
		strings.Repeat("NetworkErrorRatio()>1&&", 16) + "NetworkErrorRatio()>1": "more than 16 comparisons",
	} {
		e, err := Parse(in)
		if err == nil {
			t.Errorf("%s: %s", in, e)
		} else if !strings.EqualFold(err.Error(), want) {
			t.Errorf("%s: %q, want %q", in, err, want)
		}
	}
}

// What is read is written in a form that is read as the same.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"NetworkErrorRatio() > 0.30", "!(ResponseCodeRatio(500, 600, 0, 600) > 0.25 || LatencyAtQuantileMS(50.0) <= 100)",
		"a && b", "((", "NetworkErrorRatio() > 1e9", "NetworkErrorRatio() > 99999999999999999999999999999999",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e, err := Parse(s)
		if err != nil {
			return
		}
		again, err := Parse(e.String())
		if err != nil && len(e.String()) <= maxLength {
			t.Fatalf("%q became %q: %v", s, e, err)
		}
		if err == nil && again.String() != e.String() {
			t.Fatalf("%q became %q, then %q", s, e, again)
		}
		c := New(e)
		for i := range int64(20) {
			c.Record(i*int64(time.Second)+1, Answer{Status: int(i * 40), Took: time.Duration(i) << (i * 3)})
		}
	})
}

func TestLatencyClasses(t *testing.T) {
	last := -1
	for d := time.Duration(1); d < 40*time.Minute; d += d/20 + 1 {
		c := classOf(d)
		if c < last {
			t.Fatalf("%v is in class %d, a shorter one in %d", d, c, last)
		}
		last = c
		if m := middle(c); d > 100*time.Microsecond && (float64(m) < 0.92*float64(d) || float64(m) > 1.08*float64(d)) {
			t.Errorf("%v is taken for %v", d, m)
		}
	}
	if classOf(-1) != 0 || classOf(1<<62) != classes-1 {
		t.Error("what is out of range")
	}
}

func TestMeasures(t *testing.T) {
	const now = int64(time.Minute)
	record := func(in string, answers ...Answer) bool {
		t.Helper()
		e, err := Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		w := newWindow(e)
		for _, a := range answers {
			w.add(now, a)
		}
		return e.holds(w.sum(now))
	}
	ok, bad, gone := Answer{Status: 200}, Answer{Status: 500}, Answer{Status: 503, Network: true}
	took := func(ms int) Answer { return Answer{Status: 200, Took: time.Duration(ms) * time.Millisecond} }
	for _, c := range []struct {
		in      string
		answers []Answer
		want    bool
	}{
		{"NetworkErrorRatio() > 0", nil, false},
		{"NetworkErrorRatio() >= 0.5", []Answer{ok, gone}, true},
		{"NetworkErrorRatio() > 0.5", []Answer{ok, gone}, false},
		{"NetworkErrorRatio() > 0.5", []Answer{ok, bad, gone, gone, gone}, true},
		{"ResponseCodeRatio(500, 600, 0, 600) == 0.25", []Answer{ok, ok, ok, bad}, true},
		{"ResponseCodeRatio(200, 300, 500, 600) != 3", []Answer{ok, ok, ok, bad}, false},
		{"ResponseCodeRatio(500, 600, 400, 500) > 0", []Answer{bad}, false}, // nothing to divide by
		{"LatencyAtQuantileMS(50) < 12", []Answer{took(10), took(10), took(1000)}, true},
		{"LatencyAtQuantileMS(90) > 900", []Answer{took(10), took(10), took(1000)}, true},
		{"LatencyAtQuantileMS(100) <= 1100", []Answer{took(10), took(10), took(1000)}, true},
		{"LatencyAtQuantileMS(50) > 0", nil, true}, // of nothing it is the least class: LeastAnswers is in the way
		{"!(NetworkErrorRatio() > 0.5) && LatencyAtQuantileMS(50) > 100", []Answer{took(200)}, true},
		{"NetworkErrorRatio() > 0.5 || LatencyAtQuantileMS(50) > 100", []Answer{took(20)}, false},
	} {
		if got := record(c.in, c.answers...); got != c.want {
			t.Errorf("%s of %v: %v", c.in, c.answers, got)
		}
	}
}
