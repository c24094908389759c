package observed

import (
	"regexp"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/access"
)

// What begins with "#" in a pattern stands for more than itself: no path in canonical form has that character.
const (
	Number = "#number" // digits
	UUID   = "#uuid"   // 8-4-4-4-12 hexadecimal digits
	Date   = "#date"   // 2006-01-02
	Hex    = "#hex"    // hexadecimal digits, 16 or more, not only letters
	Token  = "#token"  // 24 characters or more, with at least 4 digits
	Any    = "#any"    // any name: more than maxNames were seen there

	// Unsafe stands for a path without a safe form, Long for one that is longer than maxPath, Other for a method that no
	// rule can name. None of them can be allowed by a rule about paths or methods.
	Unsafe = "#unsafe"
	Long   = "#long"
	Other  = "#other"
)

// maxPath bounds how long a pattern may be, maxNames how many names at one place of a path are told apart in a proposal.
const (
	maxPath  = 256
	maxNames = 20
)

// Pattern is what of a path is recorded: its canonical form, with segments that look like identifiers replaced by the
// kind that they are of.
func Pattern(path string, encodedSlash bool) string {
	var buf [maxPath]byte
	return string(appendPattern(buf[:0], path, encodedSlash))
}

// appendPattern appends the pattern to dst, which has room for one.
func appendPattern(dst []byte, path string, encodedSlash bool) []byte {
	path, ok := access.Canonical(path, encodedSlash)
	if !ok {
		return append(dst, Unsafe...)
	}
	if !strings.HasPrefix(path, "/") { // "*"
		return append(dst, path...)
	}
	for path != "" {
		segment, rest := path[1:], ""
		if i := strings.IndexByte(segment, '/'); i >= 0 {
			segment, rest = segment[:i], segment[i:]
		}
		if kind := kindOf(segment); kind != "" {
			segment = kind
		}
		if len(dst)+1+len(segment) > maxPath {
			return append(dst[:0], Long...)
		}
		dst = append(append(dst, '/'), segment...)
		path = rest
	}
	return dst
}

// kindOf says which kind of identifier a segment looks like; empty if it is a name.
func kindOf(s string) string {
	digits, letters, others := 0, 0, 0 // letters are hexadecimal ones
	for _, c := range []byte(s) {
		switch {
		case '0' <= c && c <= '9':
			digits++
		case 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F':
			letters++
		default:
			others++
		}
	}
	switch {
	case digits == 0:
		return ""
	case digits == len(s):
		return Number
	case others == 0 && len(s) >= 16:
		return Hex
	case hasShape(s, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"):
		return UUID
	case hasShape(s, "0000-00-00"):
		return Date
	case len(s) >= 24 && digits >= 4:
		return Token
	}
	return ""
}

// hasShape compares s with a shape in which 0 is a digit and x a hexadecimal digit.
func hasShape(s, shape string) bool {
	if len(s) != len(shape) {
		return false
	}
	for i := range len(s) {
		c := s[i]
		digit := '0' <= c && c <= '9'
		switch shape[i] {
		case '0':
			if !digit {
				return false
			}
		case 'x':
			if !digit && (c|0x20 < 'a' || c|0x20 > 'f') {
				return false
			}
		default:
			if c != shape[i] {
				return false
			}
		}
	}
	return true
}

// isPattern takes what Pattern makes.
func isPattern(p string) bool {
	switch {
	case p == Unsafe || p == Long || p == "*":
		return true
	case !strings.HasPrefix(p, "/") || len(p) > maxPath:
		return false
	}
	for segment := range strings.SplitSeq(p[1:], "/") {
		if strings.HasPrefix(segment, "#") {
			if expr, _ := kind(segment); expr == "" || segment == Any {
				return false
			}
			continue
		}
		for _, c := range []byte(segment) {
			if c <= ' ' || c >= 0x7f || c == '#' || c == '\\' {
				return false
			}
		}
	}
	return true
}

// kind is the expression for a kind of segment, and what it is called.
func kind(segment string) (expr, called string) {
	switch segment {
	case Number:
		return "[0-9]+", "any number"
	case UUID:
		return "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", "any UUID"
	case Date:
		return "[0-9]{4}-[0-9]{2}-[0-9]{2}", "any date"
	case Hex:
		return "[0-9a-fA-F]{16,}", "any 16 hexadecimal digits or more"
	case Token:
		return "[^/]{24,}", "any 24 characters or more"
	case Any:
		return "[^/]+", "any name"
	}
	return "", ""
}

// regexOf is the pathRegex for a pattern, to its very end. wider says what it fits besides what was seen.
func regexOf(pattern string) (expr string, wider []string) {
	if !strings.HasPrefix(pattern, "/") {
		return regexp.QuoteMeta(pattern) + "$", nil
	}
	var b strings.Builder
	for segment := range strings.SplitSeq(pattern[1:], "/") {
		b.WriteByte('/')
		e, called := kind(segment)
		if e == "" {
			b.WriteString(regexp.QuoteMeta(segment))
			continue
		}
		b.WriteString(e)
		if note := called + " at " + segment; !slices.Contains(wider, note) {
			wider = append(wider, note)
		}
	}
	return b.String() + "$", wider
}

// fold replaces names by Any where more than maxNames different ones were seen at one place, which is what all patterns
// have in common before it. It returns what each pattern becomes.
func fold(patterns []string) map[string]string {
	out := map[string]string{}
	var split [][]string
	for _, p := range patterns {
		if strings.HasPrefix(p, "/") {
			split = append(split, strings.Split(p[1:], "/"))
		} else {
			out[p] = p
		}
	}
	foldAt(split, make([]string, 0, 16), 0, out)
	return out
}

// foldAt folds patterns that are alike before segment at, where they have become prefix.
func foldAt(patterns [][]string, prefix []string, at int, out map[string]string) {
	groups := map[string][][]string{}
	names := 0
	for _, p := range patterns {
		if len(p) == at {
			out["/"+strings.Join(p, "/")] = "/" + strings.Join(prefix, "/")
			continue
		}
		if groups[p[at]] == nil && p[at] != "" {
			names++
		}
		groups[p[at]] = append(groups[p[at]], p)
	}
	if names > maxNames {
		for name, group := range groups {
			if name != "" && name != Any { // an empty one is the slash that a path ends in
				groups[Any] = append(groups[Any], group...)
				delete(groups, name)
			}
		}
	}
	for name, group := range groups {
		foldAt(group, append(slices.Clip(prefix), name), at+1, out)
	}
}
