package breaker

import (
	"testing"
	"time"
)

const second = int64(time.Second)

func circuit(t *testing.T, s string) *Circuit {
	t.Helper()
	e, err := Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return New(e)
}

// allowed is how many of 1,000 calls pass.
func allowed(c *Circuit, now int64) int {
	n := 0
	for i := range uint64(1000) {
		if c.Allow(now, i<<54) {
			n++
		}
	}
	return n
}

func TestCircuitOpensAndCloses(t *testing.T) {
	c := circuit(t, "NetworkErrorRatio() > 0.5")
	now := 100 * second
	for i := range LeastAnswers - 1 {
		if c.Record(now, Answer{Network: true}) || !c.Allow(now, 0) {
			t.Fatalf("open after %d answers", i+1)
		}
	}
	if !c.Record(now+second, Answer{Network: true}) {
		t.Fatal("not open")
	}
	now += second
	if allowed(c, now) != 0 || allowed(c, now+10*second-1) != 0 {
		t.Error("an open circuit lets calls through")
	}
	for at, want := range map[int64]int{10: 0, 12: 200, 15: 500, 19: 900} {
		if got := allowed(c, now+at*second); got < want-30 || got > want+30 {
			t.Errorf("%d s after it opened, %d of 1000 calls pass, want %d", at, got, want)
		}
	}
	if got := allowed(c, now+20*second); got != 1000 {
		t.Errorf("closed, %d of 1000 calls pass", got)
	}
}

// What failed before it opened is forgotten, and what fails while it closes opens it again.
func TestCircuitOpensAgain(t *testing.T) {
	c := circuit(t, "ResponseCodeRatio(500, 600, 0, 600) > 0.5")
	now := 100 * second
	fail := func(now int64) (opened bool) {
		for i := range int64(LeastAnswers) {
			opened = c.Record(now+i*second/10, Answer{Status: 500}) || opened
		}
		return opened
	}
	if !fail(now) {
		t.Fatal("not open")
	}
	now += 2 * second
	if fail(now) {
		t.Error("opened while it is open") // those calls began before
	}
	now += 9 * second
	if c.Record(now, Answer{Status: 500}) {
		t.Error("one failure while it closes is enough")
	}
	if !fail(now) || allowed(c, now+2*second) != 0 {
		t.Error("failures while it closes don't open it")
	}
}

func TestOldAnswersDoNotCount(t *testing.T) {
	c := circuit(t, "NetworkErrorRatio() > 0.5")
	for i := range int64(1000) { // one every 2 s
		if c.Record((100+2*i)*second, Answer{Network: true}) {
			t.Fatal("open by fewer answers than it takes")
		}
	}
}

// 502 and 504 say that somebody on the way got no answer.
func TestGatewaysNetworkErrors(t *testing.T) {
	c := circuit(t, "NetworkErrorRatio() > 0.9")
	opened := false
	for i := range int64(2 * LeastAnswers) {
		opened = c.Record(100*second+i*second/10, Answer{Status: 502 + int(i%2)*2}) || opened
	}
	if !opened {
		t.Error("not open")
	}
}

func BenchmarkAllow(b *testing.B) {
	e, err := Parse("NetworkErrorRatio() > 0.3 || LatencyAtQuantileMS(99) > 500")
	if err != nil {
		b.Fatal(err)
	}
	c := New(e)
	b.ReportAllocs()
	now := second
	for b.Loop() {
		now += 10_000 // 100,000 calls a second
		c.Allow(now, 1)
		c.Record(now, Answer{Status: 200, Took: time.Millisecond})
	}
}
