package problem

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxMessage keeps a message within what an Event's note may hold (1024 bytes).
const maxMessage = 900

// maxQuoted is how much of a user's value a message repeats.
const maxQuoted = 60

// maxListed is how many of a user's values a message repeats.
const maxListed = 5

// Newf makes a Problem; a message that is too long for an Event is cut.
func Newf(object Ref, reason Reason, format string, args ...any) Problem {
	return Problem{Object: object, Reason: reason, Message: cut(fmt.Sprintf(format, args...), maxMessage)}
}

// Quote quotes a user's value for a message, cut to a length that people can read.
func Quote(s string) string { return strconv.Quote(cut(s, maxQuoted)) }

// QuoteAll quotes the first few of a user's values for a message, and counts the others.
func QuoteAll(values []string) string {
	quoted := make([]string, 0, maxListed)
	for _, v := range values[:min(len(values), maxListed)] {
		quoted = append(quoted, Quote(v))
	}
	text := strings.Join(quoted, ", ")
	if more := len(values) - maxListed; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// cut shortens s to about limit bytes, at a rune's edge.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return strings.ToValidUTF8(s[:limit], "\uFFFD") + "…"
}
