package http1

import (
	"strings"
	"testing"
)

// requestCases are requests and how they are read: ok, more (to come), or the status of the refusal.
var requestCases = []struct {
	name, raw string
	status    int
}{
	{"least", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 200},
	{"HTTP/1.0 without Host", "GET / HTTP/1.0\r\n\r\n", 200},
	{"an empty line before it", "\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", 200},
	{"two empty lines before it", "\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", 400},
	{"many fields", "GET /a?b HTTP/1.1\r\nHost: x:80\r\nA: 1\r\nA: 2\r\nB:\t x y \t\r\nC:\r\n\r\n", 200},
	{"unusual characters", "GET /a|b^c`{}\"<>\\\xc3 HTTP/1.1\r\nHost: x\r\nA: \xff\x80\r\n\r\n", 200},
	{"method of one's own", "M!X / HTTP/1.1\r\nHost: x\r\n\r\n", 200},
	{"body", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 200},
	{"the same length twice", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 200},
	{"leading zeros of a length", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 003\r\n\r\nabc", 200},
	{"chunked", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\nTrailer: T\r\n\r\n3;a=b\r\nabc\r\n0\r\nT: 1\r\n\r\nGET", 200},
	{"hop-by-hop", "GET / HTTP/1.1\r\nHost: x\r\nConnection: close, A\r\nA: 1\r\nTE: trailers\r\nUpgrade: h2c\r\n\r\n", 200},
	{"Connection names what it can't", "GET / HTTP/1.1\r\nHost: x\r\nConnection: host, content-length\r\nContent-Length: 0\r\n\r\n", 200},
	{"upgrade", "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 200},
	{"asterisk", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 200},
	{"absolute", "GET http://X:80/a?b HTTP/1.1\r\nHost: x:80\r\n\r\n", 200},
	{"absolute without path", "GET http://x?b HTTP/1.1\r\nHost: x\r\n\r\n", 200},
	{"IPv6 Host", "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 200},
	{"empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", 200},

	{"no end", "GET / HTTP/1.1\r\nHost: x\r\n", 0},
	{"no line", "GET / HT", 0},

	{"bare LF behind the request line", "GET / HTTP/1.1\nHost: x\r\n\r\n", 400},
	{"bare LF behind a field", "GET / HTTP/1.1\r\nHost: x\n\r\n", 400},
	{"bare LF at the end", "GET / HTTP/1.1\r\nHost: x\r\n\n", 400},
	{"bare CR in a value", "GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n", 400},
	{"bare CR at the end", "GET / HTTP/1.1\r\nHost: x\r\n\rA: b\r\n\r\n", 400},
	{"CR CR LF", "GET / HTTP/1.1\r\nHost: x\r\r\n\r\n", 400},
	{"NUL in a value", "GET / HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n", 400},
	{"DEL in a long value", "GET / HTTP/1.1\r\nHost: x\r\nA: 0123456789\x7f0123456789\r\n\r\n", 400},
	{"obs-fold", "GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400},
	{"obs-fold of the first field", "GET / HTTP/1.1\r\n Host: x\r\n\r\n", 400},
	{"space before a colon", "GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n", 400},
	{"tab before a colon", "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding\t: chunked\r\n\r\n", 400},
	{"no colon", "GET / HTTP/1.1\r\nHost: x\r\nA\r\n\r\n", 400},
	{"no name", "GET / HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n", 400},
	{"a name that is no token", "GET / HTTP/1.1\r\nHost: x\r\nA(: b\r\n\r\n", 400},
	{"control character in a name", "GET / HTTP/1.1\r\nHost: x\r\nA\x00: b\r\n\r\n", 400},

	{"length with coding", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
	{"coding with length", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400},
	{"two lengths", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400},
	{"a list of lengths", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3, 3\r\n\r\nabc", 400},
	{"a signed length", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc", 400},
	{"a negative length", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -3\r\n\r\nabc", 400},
	{"a hexadecimal length", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x3\r\n\r\nabc", 400},
	{"no length", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\n", 400},
	{"a length in two words", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3 3\r\n\r\nabc", 400},
	{"a length that overflows", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9223372036854775808\r\n\r\n", 400},
	{"chunked twice", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400},
	{"chunked in two fields", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
	{"chunked is not last", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400},
	{"identity", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\n\r\n", 400},
	{"no coding", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\n\r\n", 400},
	{"almost chunked", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400},
	{"chunked with a parameter", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n", 400},
	{"vertical tab before chunked", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400},
	{"another coding below chunked", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501},
	{"coding in HTTP/1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},

	{"no Host", "GET / HTTP/1.1\r\n\r\n", 400},
	{"two Hosts", "GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400},
	{"two Hosts in HTTP/1.0", "GET / HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n", 400},
	{"Host with a path", "GET / HTTP/1.1\r\nHost: x/y\r\n\r\n", 400},
	{"Host with a user", "GET / HTTP/1.1\r\nHost: a@x\r\n\r\n", 400},
	{"a list of Hosts", "GET / HTTP/1.1\r\nHost: x y\r\n\r\n", 400},
	{"Host with a port that is none", "GET / HTTP/1.1\r\nHost: x:8a\r\n\r\n", 400},
	{"Host with two ports", "GET / HTTP/1.1\r\nHost: x:80:80\r\n\r\n", 400},
	{"Host without end", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400},
	{"absolute form with another Host", "GET http://x/ HTTP/1.1\r\nHost: y\r\n\r\n", 400},
	{"absolute form with another port", "GET http://x/ HTTP/1.1\r\nHost: x:80\r\n\r\n", 400},
	{"absolute form with a user", "GET http://a@x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400},
	{"another scheme", "GET https://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400},

	{"no method", " / HTTP/1.1\r\nHost: x\r\n\r\n", 400},
	{"a method that is no token", "G{T / HTTP/1.1\r\nHost: x\r\n\r\n", 400},
	{"two spaces", "GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400},
	{"space at the end", "GET / HTTP/1.1 \r\nHost: x\r\n\r\n", 400},
	{"tab", "GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n", 400},
	{"space in the target", "GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 400},
	{"no version", "GET /\r\nHost: x\r\n\r\n", 400},
	{"small letters", "GET / http/1.1\r\nHost: x\r\n\r\n", 400},
	{"HTTP/1.2", "GET / HTTP/1.2\r\nHost: x\r\n\r\n", 505},
	{"HTTP/2.0", "GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505},
	{"HTTP/0.9", "GET / HTTP/0.9\r\nHost: x\r\n\r\n", 505},
	{"HTTP/1.10", "GET / HTTP/1.10\r\nHost: x\r\n\r\n", 400},
	{"fragment", "GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n", 400},
	{"an escape that is none", "GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n", 400},
	{"control character in the target", "GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n", 400},
	{"asterisk for another method", "GET * HTTP/1.1\r\nHost: x\r\n\r\n", 400},
	{"relative target", "GET a HTTP/1.1\r\nHost: x\r\n\r\n", 400},
	{"Upgrade to nothing", "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade:\r\n\r\n", 400},

	{"line of 8 KiB", "GET /" + strings.Repeat("a", 8<<10-14) + " HTTP/1.1\r\nHost: x\r\n\r\n", 200},
	{"longer line", "GET /" + strings.Repeat("a", 8<<10-13) + " HTTP/1.1\r\nHost: x\r\n\r\n", 414},
	{"line without end", strings.Repeat("a", 9<<10), 414},
	{"head of 64 KiB", "GET / HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 64<<10-32) + "\r\n\r\n", 200},
	{"longer head", "GET / HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 64<<10-31) + "\r\n\r\n", 431},
	{"head without end", "GET / HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 65<<10), 431},
	{"200 fields", "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: b\r\n", 199) + "\r\n", 200},
	{"201 fields", "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: b\r\n", 200) + "\r\n", 431},
}

func TestRequests(t *testing.T) {
	for _, c := range requestCases {
		var r request
		n, err := r.parse([]byte(c.raw), defaultLimits)
		got := 200
		switch {
		case err != nil:
			got = reasonOf(err).Answer().Status
		case n == 0:
			got = 0
		}
		if got != c.status {
			t.Errorf("%s: %d (%v), want %d", c.name, got, err, c.status)
		}
	}
}

// A head is the same however it arrives, and is not looked for behind its end.
func TestHeadsInPieces(t *testing.T) {
	for _, c := range requestCases {
		if c.status != 200 || len(c.raw) > 1000 {
			continue
		}
		var r request
		n, _ := r.parse([]byte(c.raw), defaultLimits)
		for i := range n {
			if m, err := r.parse([]byte(c.raw)[:i], defaultLimits); m != 0 || err != nil {
				t.Errorf("%s: %d of %d bytes: %d, %v", c.name, i, n, m, err)
			}
			if i < n-3 { // the end is looked for where a part that is not whole ended
				if end, err := headEnd([]byte(c.raw), i); end != n || err != nil {
					t.Errorf("%s: the end from %d is at %d, %v; want %d", c.name, i, end, err, n)
				}
			}
		}
	}
}

var responseCases = []struct {
	name, raw string
	head      bool
	ok        bool
}{
	{"length", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false, true},
	{"no reason", "HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok", false, true},
	{"not even a space", "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", false, true},
	{"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n", true, true},
	{"304", "HTTP/1.1 304 Not Modified\r\nContent-Length: 200\r\n\r\n", false, true},
	{"204", "HTTP/1.1 204 No Content\r\n\r\n", false, true},
	{"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n2\r\nok\r\n0\r\nT: 1\r\n\r\n", false, true},
	{"until the end", "HTTP/1.0 200 OK\r\n\r\nok", false, true},
	{"hop-by-hop", "HTTP/1.1 200 OK\r\nConnection: close, A\r\nA: 1\r\nKeep-Alive: 5\r\nContent-Length: 0\r\n\r\n", false, true},
	{"100", "HTTP/1.1 100 Continue\r\n\r\n", false, true},

	{"no HTTP", "SSH-2.0-x\r\n", false, false},
	{"another version", "HTTP/1.2 200 OK\r\n\r\n", false, false},
	{"short status", "HTTP/1.1 20 OK\r\n\r\n", false, false},
	{"long status", "HTTP/1.1 2000 OK\r\n\r\n", false, false},
	{"status that is none", "HTTP/1.1 2x0 OK\r\n\r\n", false, false},
	{"status below 100", "HTTP/1.1 099 OK\r\n\r\n", false, false},
	{"control character in the reason", "HTTP/1.1 200 O\x00K\r\n\r\n", false, false},
	{"bare LF", "HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok", false, false},
	{"obs-fold", "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 2\r\n\r\nok", false, false},
	{"space before a colon", "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok", false, false},
	{"length with coding", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false, false},
	{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", false, false},
	{"a length that is none", "HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok", false, false},
	{"another coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", false, false},
	{"coding in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false, false},
	{"a switch to nothing", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\r\n", false, false},
}

func TestResponses(t *testing.T) {
	for _, c := range responseCases {
		var r response
		n, err := r.parse([]byte(c.raw), defaultLimits)
		if ok := err == nil && n > 0; ok != c.ok {
			t.Errorf("%s: %d, %v", c.name, n, err)
		}
	}
}

var chunkCases = []struct {
	name, raw, want string
	ok              bool
}{
	{"one", "3\r\nabc\r\n0\r\n\r\n", "abc", true},
	{"several", "1\r\na\r\n0002\r\nbc\r\n0\r\n\r\n", "abc", true},
	{"either case", "a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789", true},
	{"extensions", "3;a;b=\"c;d\"\r\nabc\r\n0;e\r\n\r\n", "abc", true},
	{"trailers", "0\r\nA: b\r\nX-Sum: 1\r\n\r\n", "", true},

	{"no size", "\r\nabc\r\n0\r\n\r\n", "", false},
	{"a size that is none", "x\r\nabc\r\n0\r\n\r\n", "", false},
	{"0x", "0x3\r\nabc\r\n0\r\n\r\n", "", false},
	{"a sign", "+3\r\nabc\r\n0\r\n\r\n", "", false},
	{"negative", "-3\r\nabc\r\n0\r\n\r\n", "", false},
	{"space before the size", " 3\r\nabc\r\n0\r\n\r\n", "", false},
	{"space behind the size", "3 \r\nabc\r\n0\r\n\r\n", "", false},
	{"space before an extension", "3 ;a\r\nabc\r\n0\r\n\r\n", "", false},
	{"a size that overflows", "8000000000000000\r\nabc\r\n0\r\n\r\n", "", false},
	{"a size of 17 digits", "00000000000000003\r\nabc\r\n0\r\n\r\n", "", false},
	{"bare LF behind the size", "3\nabc\r\n0\r\n\r\n", "", false},
	{"bare LF in an extension", "3;a\nb\r\nabc\r\n0\r\n\r\n", "", false},
	{"bare CR in an extension", "3;a\rb\r\nabc\r\n0\r\n\r\n", "", false},
	{"bare LF behind the data", "3\r\nabc\n0\r\n\r\n", "", false},
	{"more data", "3\r\nabcd\r\n0\r\n\r\n", "", false},
	{"less data", "3\r\nab\r\n0\r\n\r\n", "", false},
	{"no last chunk", "3\r\nabc\r\n", "", false},
	{"no end", "3\r\nabc\r\n0\r\n", "", false},
	{"long extension", "3;" + strings.Repeat("a", 1<<10) + "\r\nabc\r\n0\r\n\r\n", "", false},
	{"long extensions", strings.Repeat("1;"+strings.Repeat("a", 1000)+"\r\na\r\n", 20) + "0\r\n\r\n", "", false},
	{"a length as trailer", "0\r\nContent-Length: 5\r\n\r\n", "", false},
	{"a host as trailer", "0\r\nHost: y\r\n\r\n", "", false},
	{"a coding as trailer", "0\r\nTransfer-Encoding: chunked\r\n\r\n", "", false},
	{"obs-fold in trailers", "0\r\nA: b\r\n c\r\n\r\n", "", false},
	{"many trailers", "0\r\n" + strings.Repeat("A: b\r\n", 65) + "\r\n", "", false},
}

func TestChunks(t *testing.T) {
	for _, c := range chunkCases {
		for _, step := range []int{1, 2, 3, 7, 1 << 20} {
			var s source
			s.begin(&slow{[]byte(c.raw), step}, body{framing: chunked}, nil, 0)
			got, err := readAll(&s)
			if ok := err == nil; ok != c.ok || ok && string(got) != c.want {
				t.Errorf("%s in steps of %d: %q, %v", c.name, step, got, err)
			}
			s.free()
		}
	}
}
