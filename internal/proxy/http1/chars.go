package http1

import "encoding/binary"

const (
	digits  = "0123456789"
	letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

// chars is a set of characters.
type chars [256]bool

func charsOf(s string) (c chars) {
	for i := range len(s) {
		c[s[i]] = true
	}
	return c
}

var (
	// tokens are what methods and names of fields are made of (RFC 9110, 5.6.2).
	tokens = charsOf("!#$%&'*+-.^_`|~" + digits + letters)
	// hosts are what a host without brackets is made of (RFC 3986, 3.2.2).
	hosts = charsOf("-._~!$&'()*+,;=%" + digits + letters)
	hex   = charsOf(digits + "ABCDEFabcdef")
)

// all says that b has nothing but characters of the set.
func (c *chars) all(b []byte) bool {
	for _, x := range b {
		if !c[x] {
			return false
		}
	}
	return true
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// clean says that b has no control characters but tabs (RFC 9110, 5.5). Eight bytes are looked at in one step.
func clean(b []byte) bool {
	for len(b) >= 8 {
		v := binary.LittleEndian.Uint64(b)
		low := (v - ones*0x20) &^ v & highs // some byte is below 0x20
		x := v ^ ones*0x7f
		del := (x - ones) &^ x & highs // some byte is 0x7f
		if low|del != 0 && !cleanSlow(b[:8]) {
			return false
		}
		b = b[8:]
	}
	return cleanSlow(b)
}

func cleanSlow(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// trim cuts optional whitespace (RFC 9110, 5.6.3) off both ends.
func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// is compares without regard to the letters' case. want is in lower case.
func is[T string | []byte](b T, want string) bool {
	if len(b) != len(want) {
		return false
	}
	for i := range len(b) {
		if lower(b[i]) != want[i] {
			return false
		}
	}
	return true
}

// fold compares without regard to the letters' case.
func fold[A, B string | []byte](a A, b B) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

// element cuts the first element off a comma-separated list (RFC 9110, 5.6.1).
func element(list []byte) (first, rest []byte) {
	for i, c := range list {
		if c == ',' {
			return trim(list[:i]), list[i+1:]
		}
	}
	return trim(list), nil
}
