package main

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/integration/images/report"
)

// outcome of one call.
type outcome struct {
	answer report.Answer
	status int // of HTTP, else 0
	header map[string]string
	err    error
}

// tally collects the outcomes of calls that run at the same time.
type tally struct {
	mu     sync.Mutex
	sum    report.Summary
	took   []time.Duration
	begin  time.Time
	lastOK time.Time
}

const (
	keptFailures = 100
	keptTurns    = 10000
)

func newTally() *tally {
	now := time.Now()
	return &tally{begin: now, lastOK: now, sum: report.Summary{
		ByPod: map[string]int{}, ByNode: map[string]int{}, ByVersion: map[string]int{}, ByStatus: map[int]int{}, Errors: map[string]int{},
	}}
}

// add counts a call that was due at a certain time and is over now.
func (t *tally) add(due time.Time, o outcome) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sum.Calls++
	t.took = append(t.took, now.Sub(due))
	if o.status != 0 {
		t.sum.ByStatus[o.status]++
	}
	if o.err != nil || o.status >= 500 {
		t.fail(now, due, o)
		return
	}
	t.sum.OK++
	t.sum.GapMS = max(t.sum.GapMS, ms(now.Sub(t.lastOK)))
	t.lastOK = now
	count(t.sum.ByPod, o.answer.Pod)
	count(t.sum.ByNode, o.answer.Node)
	count(t.sum.ByVersion, o.answer.Version)
	if v := o.answer.Version; len(t.sum.Turns) < keptTurns && (len(t.sum.Turns) == 0 || t.sum.Turns[len(t.sum.Turns)-1].Version != v) {
		t.sum.Turns = append(t.sum.Turns, report.Turn{At: now, Version: v})
	}
	t.sum.Last, t.sum.LastReply = &o.answer, o.header
}

func (t *tally) fail(now, due time.Time, o outcome) {
	t.sum.Failed++
	t.sum.LastFailure = now
	text := strings.TrimSpace(fmt.Sprintf("status %d %s", o.status, o.header["Tulle-Reason"]))
	if o.err != nil {
		text = o.err.Error()
		t.sum.Errors[text]++
	}
	if len(t.sum.Failures) < keptFailures {
		t.sum.Failures = append(t.sum.Failures, report.Failure{At: now, Error: text, MS: ms(now.Sub(due))})
	}
	if o.header != nil {
		t.sum.LastReply = o.header
	}
}

func count(m map[string]int, key string) {
	if key != "" {
		m[key]++
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (t *tally) summary() report.Summary {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sum
	s.Seconds = time.Since(t.begin).Seconds()
	if len(t.took) > 0 {
		sorted := slices.Sorted(slices.Values(t.took))
		s.P50MS, s.P99MS, s.MaxMS = ms(sorted[len(sorted)/2]), ms(sorted[len(sorted)*99/100]), ms(sorted[len(sorted)-1])
	}
	return s
}
