package smi

import (
	"errors"
	"fmt"
	"regexp/syntax"

	"github.com/tulle-mesh/tulle/internal/problem"
)

// What a regular expression may cost every proxy: its text and the instructions that it compiles to.
const (
	maxRegexLength = 4096
	maxRegexCost   = 10_000
)

// checkRegex says why expr cannot be used. A few bytes such as (((a{1000}){10}) compile to megabytes in every proxy,
// hence the limit on what an expression costs.
func checkRegex(expr string) error {
	if len(expr) > maxRegexLength {
		return fmt.Errorf("a regular expression may have %d bytes, this one has %d", maxRegexLength, len(expr))
	}
	re, err := syntax.Parse(expr, syntax.Perl)
	if se := (*syntax.Error)(nil); errors.As(err, &se) {
		return fmt.Errorf("%s is not a regular expression of RE2: %s", problem.Quote(expr), se.Code)
	}
	if err != nil {
		return fmt.Errorf("%s is not a regular expression of RE2: %w", problem.Quote(expr), err)
	}
	if cost(re) > maxRegexCost {
		return fmt.Errorf("%s is a regular expression that is too large once its repetitions are written out", problem.Quote(expr))
	}
	return nil
}

// cost estimates the size of what re compiles to, without compiling it. Repetitions multiply.
func cost(re *syntax.Regexp) int {
	n := 1 + len(re.Rune)
	if re.Op == syntax.OpCharClass {
		n = 1 + len(re.Rune)/64 // one instruction with a table, which copies share
	}
	for _, sub := range re.Sub {
		n += cost(sub)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Min, re.Max, 1)
	}
	return min(n, maxRegexCost+1)
}
