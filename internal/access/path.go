package access

import "strings"

// Canonical gives a request's path (without the query) the one form that rules judge and that is forwarded: percent-
// encoded unreserved characters are decoded, duplicate slashes merged and dot segments resolved, whatever parameters they
// carry. It is false if that can't be done safely: for an encoded slash (unless encodedSlash says that it stays as it
// is), a backslash or control byte, encoded or not, an escape that is none, a fragment, and what begins with no slash.
// The form is canonical: another turn changes nothing.
func Canonical(path string, encodedSlash bool) (string, bool) {
	if path == "*" {
		return path, true // OPTIONS asks for the server as a whole
	}
	if !strings.HasPrefix(path, "/") {
		return "", false
	}
	decoded := path
	if !isPlain(path) {
		var ok bool
		if decoded, ok = decode(path, encodedSlash); !ok {
			return "", false
		}
	}
	if !strings.Contains(decoded, "//") && !strings.Contains(decoded, "/.") {
		return decoded, true
	}
	return resolve(decoded)
}

// isPlain says that nothing of path needs decoding.
func isPlain(path string) bool {
	for _, c := range []byte(path) {
		if c == '%' || c == '\\' || c == '#' || c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return true
}

const hex = "0123456789ABCDEF"

// decode brings every byte into its one form.
func decode(path string, encodedSlash bool) (string, bool) {
	out := make([]byte, 0, len(path)+8)
	for i := 0; i < len(path); i++ {
		c := path[i]
		switch {
		case c == '\\' || c == '#' || c <= ' ' || c == 0x7f:
			return "", false
		case c > 0x7f: // of UTF-8, most likely, which is to be sent encoded
			out = append(out, '%', hex[c>>4], hex[c&15])
			continue
		case c != '%':
			out = append(out, c)
			continue
		}
		if i+2 >= len(path) {
			return "", false
		}
		high, low := unhex(path[i+1]), unhex(path[i+2])
		if high < 0 || low < 0 {
			return "", false
		}
		b := byte(high<<4 | low)
		switch {
		case b == '\\' || b < ' ' || b == 0x7f || b == '/' && !encodedSlash:
			return "", false
		case b == '/':
			out = append(out, path[i:i+3]...)
		case isUnreserved(b):
			out = append(out, b)
		default:
			out = append(out, '%', hex[high], hex[low])
		}
		i += 2
	}
	return string(out), true
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// isUnreserved is RFC 3986, section 2.3.
func isUnreserved(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '-' || c == '.' || c == '_' || c == '~'
}

// resolve merges slashes and resolves dot segments, as RFC 3986, section 5.2.4 does. A dot segment with an encoded
// semicolon is refused: some servers see parameters behind it, others a name.
func resolve(path string) (string, bool) {
	segments := make([]string, 0, 16)
	last := ""
	for segment := range strings.SplitSeq(path[1:], "/") {
		name, _, _ := strings.Cut(segment, ";")
		switch {
		case segment == "":
			last = ""
			continue
		case strings.HasPrefix(name, ".%3B") || strings.HasPrefix(name, "..%3B"):
			return "", false
		case name == ".":
			last = ""
		case name == "..":
			last = ""
			segments = segments[:max(len(segments)-1, 0)]
		default:
			last = segment
			segments = append(segments, segment)
		}
	}
	out := "/" + strings.Join(segments, "/")
	if last == "" && len(segments) > 0 {
		out += "/" // what ends in a dot segment is a folder
	}
	return out, true
}
