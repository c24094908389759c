package proxy_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// clause is a rule of HTTP/1.1, an exchange that shows it, and what must be seen of it on either side. The clauses are
// those that a proxy has a part in; RFC 9112 unless another is named.
type clause struct {
	cite string
	say  string // by the client
	// reply is the endpoint's answer, "ok" if empty; the endpoint hangs up behind it if it ends in "$".
	reply     string
	forwarded []string // parts of what reaches the endpoint; nil = nothing does
	absent    []string // what does not reach it
	status    int
	body      string   // of the answer; "-" = whatever
	answer    []string // parts of the answer's bytes
	lacks     []string // what the answer has not
	closes    bool     // the connection ends behind the answer; otherwise it takes another request
}

const (
	get1   = "GET / HTTP/1.1\r\nHost: x\r\n"
	post1  = "POST / HTTP/1.1\r\nHost: x\r\n"
	chunky = "Transfer-Encoding: chunked\r\n"
)

var clauses = []clause{
	// Messages.
	{cite: "2.2: a server ignores an empty line before the request line", say: "\r\n" + get1 + "\r\n", forwarded: []string{"GET / HTTP/1.1\r\n"}, status: 200, body: "ok"},
	{cite: "2.2: a sender must not generate a bare CR; a recipient treats it as invalid", say: get1 + "A: b\rc\r\n\r\n", status: 400, body: "-", closes: true},
	{cite: "2.2: a line ends with CR LF (a bare LF may be taken, and is not)", say: "GET / HTTP/1.1\nHost: x\n\n", status: 400, body: "-", closes: true},
	{cite: "2.2: whitespace between the request line and the first field is refused", say: "GET / HTTP/1.1\r\n Host: x\r\n\r\n", status: 400, body: "-", closes: true},
	{cite: "2.3: an intermediary sends its own version", say: "GET / HTTP/1.0\r\nHost: x\r\n\r\n", forwarded: []string{"GET / HTTP/1.1\r\n"}, status: 200, body: "ok", answer: []string{"HTTP/1.1 200"}, closes: true},
	{cite: "2.3 and RFC 9110, 15.6.6: a major version that is not served is refused", say: "GET / HTTP/3.0\r\nHost: x\r\n\r\n", status: 505, body: "-", closes: true},

	// The request line.
	{cite: "3: an invalid request line is answered by 400", say: "GET /\r\nHost: x\r\n\r\n", status: 400, body: "-", closes: true},
	{cite: "3: a request target with whitespace is not corrected", say: "GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", status: 400, body: "-", closes: true},
	{cite: "3: a request line that is too long is answered by 414", say: "GET /" + strings.Repeat("a", 9000) + " HTTP/1.1\r\nHost: x\r\n\r\n", status: 414, body: "-", closes: true},
	{cite: "3: request lines of 8000 octets are supported", say: "GET /" + strings.Repeat("a", 7986) + " HTTP/1.1\r\nHost: x\r\n\r\n", forwarded: []string{strings.Repeat("a", 7986)}, status: 200, body: "ok"},
	{cite: "3.1: methods are case-sensitive, and unknown ones are forwarded", say: "get / HTTP/1.1\r\nHost: x\r\n\r\n", forwarded: []string{"get / HTTP/1.1\r\n"}, status: 200, body: "ok"},
	{cite: "3.2: a request of HTTP/1.1 without Host is answered by 400", say: "GET / HTTP/1.1\r\n\r\n", status: 400, body: "-", closes: true},
	{cite: "3.2: a request with more than one Host is answered by 400", say: get1 + "Host: x\r\n\r\n", status: 400, body: "-", closes: true},
	{cite: "3.2: an invalid Host is answered by 400", say: "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", status: 400, body: "-", closes: true},
	{cite: "3.2: an empty Host is a Host", say: "GET / HTTP/1.1\r\nHost:\r\n\r\n", forwarded: []string{"Host:\r\n"}, status: 200, body: "ok"},
	{cite: "3.2: a request for HTTP/1.1 always has Host", say: "GET / HTTP/1.0\r\n\r\n", forwarded: []string{"\r\nHost: 127.0.0.1:"}, status: 200, body: "ok", closes: true},
	{cite: "3.2.1: the origin form reaches the endpoint as it is", say: "GET /a%2Fb/../c?d=%20 HTTP/1.1\r\nHost: x\r\n\r\n", forwarded: []string{"GET /a%2Fb/../c?d=%20 HTTP/1.1\r\n"}, status: 200, body: "ok"},
	{cite: "3.2.2: a server accepts the absolute form", say: "GET http://x/a?b HTTP/1.1\r\nHost: x\r\n\r\n", forwarded: []string{"GET /a?b HTTP/1.1\r\nHost: x\r\n"}, status: 200, body: "ok"},
	{cite: "3.2.2: an absolute form without a path means /", say: "OPTIONS http://x HTTP/1.1\r\nHost: x\r\n\r\n", forwarded: []string{"OPTIONS / HTTP/1.1\r\n"}, status: 200, body: "ok"},
	{cite: "3.2.2: target and Host must be identical (one that disagrees is not ignored, but refused)", say: "GET http://x/ HTTP/1.1\r\nHost: y\r\n\r\n", status: 400, body: "-", closes: true},
	{cite: "3.2.3: CONNECT is for tunnels, which are not served", say: "CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n", status: 405, body: "-", answer: []string{"Allow: \r\n"}, closes: true},
	{cite: "3.2.4: the asterisk form is for OPTIONS", say: "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", forwarded: []string{"OPTIONS * HTTP/1.1\r\n"}, status: 200, body: "ok"},
	{cite: "3.2.4: and for nothing else", say: "GET * HTTP/1.1\r\nHost: x\r\n\r\n", status: 400, body: "-", closes: true},

	// The status line.
	{cite: "4: the reason phrase may be empty", say: get1 + "\r\n", reply: "HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok", forwarded: []string{"GET"}, status: 200, body: "ok", answer: []string{"HTTP/1.1 200 \r\n"}},
	{cite: "4: an invalid status line is a bad gateway", say: get1 + "\r\n", reply: "HTTP/1.1 2000 OK\r\n\r\n", forwarded: []string{"GET"}, status: 502, body: "-"},
	{cite: "RFC 9110, 15: an unknown status passes", say: get1 + "\r\n", reply: "HTTP/1.1 299 Odd\r\nContent-Length: 2\r\n\r\nok", forwarded: []string{"GET"}, status: 299, body: "ok"},

	// Fields.
	{cite: "5.1: whitespace before a colon is answered by 400", say: get1 + "A : b\r\n\r\n", status: 400, body: "-", closes: true},
	{cite: "5.1: a proxy removes such whitespace from answers (here they are refused)", say: get1 + "\r\n", reply: "HTTP/1.1 200 OK\r\nA : b\r\nContent-Length: 2\r\n\r\nok", forwarded: []string{"GET"}, status: 502, body: "-"},
	{cite: "5.1 and RFC 9110, 5.5: whitespace around a value is no part of it", say: get1 + "A: \t b \t\r\n\r\n", forwarded: []string{"b"}, status: 200, body: "ok"},
	{cite: "RFC 9110, 5.1: fields that a proxy does not know are forwarded", say: get1 + "New-Field: 1\r\n\r\n", forwarded: []string{"New-Field: 1\r\n"}, status: 200, body: "ok"},
	{cite: "RFC 9110, 5.3: fields of one name keep their order", say: get1 + "A: 1\r\nB: x\r\nA: 2\r\n\r\n", forwarded: []string{"A: 1\r\nB: x\r\nA: 2\r\n"}, status: 200, body: "ok"},
	{cite: "RFC 9110, 5.4: too many fields are refused", say: get1 + strings.Repeat("A: b\r\n", 200) + "\r\n", status: 431, body: "-", closes: true},
	{cite: "RFC 9110, 5.5: control characters in a value are refused", say: get1 + "A: b\x00\r\n\r\n", status: 400, body: "-", closes: true},
	{cite: "5.2: line folding in a request is answered by 400", say: get1 + "A: b\r\n c\r\n\r\n", status: 400, body: "-", closes: true},
	{cite: "5.2: line folding in an answer is discarded (here the answer is)", say: get1 + "\r\n", reply: "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 2\r\n\r\nok", forwarded: []string{"GET"}, status: 502, body: "-"},

	// Bodies.
	{cite: "6: a body is there if its fields are, whatever the method", say: "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi", forwarded: []string{"Content-Length: 2\r\n\r\nhi"}, status: 200, body: "ok"},
	{cite: "6.1: a request with a coding that is not known is answered by 501", say: post1 + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", status: 501, body: "-", closes: true},
	{cite: "6.1: length and coding together are refused", say: post1 + "Content-Length: 4\r\n" + chunky + "\r\n0\r\n\r\n", status: 400, body: "-", closes: true},
	{cite: "6.1: a coding in HTTP/1.0 is faulty framing", say: "POST / HTTP/1.0\r\nHost: x\r\n" + chunky + "\r\n0\r\n\r\n", status: 400, body: "-", closes: true},
	{cite: "6.1: chunked is applied once", say: post1 + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", status: 400, body: "-", closes: true},
	{cite: "6.1: HTTP/1.0 clients get no coding", say: "GET / HTTP/1.0\r\nHost: x\r\n\r\n", reply: "HTTP/1.1 200 OK\r\n" + chunky + "\r\n2\r\nok\r\n0\r\n\r\n", forwarded: []string{"GET"}, status: 200, body: "ok", answer: []string{"\r\n\r\nok"}, lacks: []string{"chunked"}, closes: true},
	{cite: "6.2: a sender does not send a length with a coding", say: post1 + chunky + "\r\n2\r\nhi\r\n0\r\n\r\n", forwarded: []string{chunky, "\r\n\r\n2\r\nhi\r\n0\r\n\r\n"}, absent: []string{"Content-Length"}, status: 200, body: "ok"},
	{cite: "6.3 (1): an answer to HEAD has no body", say: "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", reply: "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", forwarded: []string{"HEAD"}, status: 200, answer: []string{"Content-Length: 1234\r\n"}},
	{cite: "6.3 (1): a 304 has no body, whatever its fields", say: get1 + "\r\n", reply: "HTTP/1.1 304 Not Modified\r\nContent-Length: 1234\r\n\r\n", forwarded: []string{"GET"}, status: 304, answer: []string{"Content-Length: 1234\r\n"}},
	{cite: "6.3 (1), RFC 9110, 8.6: a 204 has neither body nor length", say: get1 + "\r\n", reply: "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", forwarded: []string{"GET"}, status: 204, lacks: []string{"Content-Length", "chunked"}},
	{cite: "6.3 (3): an answer with length and coding is a bad gateway", say: get1 + "\r\n", reply: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + chunky + "\r\n2\r\nok\r\n0\r\n\r\n", forwarded: []string{"GET"}, status: 502, body: "-"},
	{cite: "6.3 (4): a request whose last coding is not chunked is answered by 400", say: post1 + "Transfer-Encoding: chunked, gzip\r\n\r\n", status: 400, body: "-", closes: true},
	{cite: "6.3 (5): lengths that differ are answered by 400", say: post1 + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", status: 400, body: "-", closes: true},
	{cite: "6.3 (5): an invalid length is answered by 400", say: post1 + "Content-Length: 1x\r\n\r\na", status: 400, body: "-", closes: true},
	{cite: "6.3 (5): one length repeated may be taken as one", say: post1 + "Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi", forwarded: []string{"Content-Length: 2\r\n\r\nhi"}, absent: []string{"Length: 2\r\nContent-Length"}, status: 200, body: "ok"},
	{cite: "6.3 (5): an answer with an invalid length is a bad gateway", say: get1 + "\r\n", reply: "HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok", forwarded: []string{"GET"}, status: 502, body: "-"},
	{cite: "6.3 (7): a request without a word has no body", say: post1 + "\r\n", forwarded: []string{"POST"}, absent: []string{"chunked"}, status: 200, body: "ok"},
	{cite: "6.3 (8): an answer without a word ends with its connection", say: get1 + "\r\n", reply: "HTTP/1.1 200 OK\r\n\r\nuntil the end$", forwarded: []string{"GET"}, status: 200, body: "until the end", answer: []string{chunky}},

	// Chunks.
	{cite: "7.1: chunks are of any size and their digits of either case", say: post1 + chunky + "\r\nA\r\n0123456789\r\n00b\r\n0123456789a\r\n0\r\n\r\n", forwarded: []string{"0123456789"}, status: 200, body: "ok"},
	{cite: "7.1: an invalid size is refused", say: post1 + chunky + "\r\nx\r\n\r\n0\r\n\r\n", status: 400, body: "-", closes: true},
	{cite: "7.1: a size that overflows is refused", say: post1 + chunky + "\r\nfffffffffffffffff\r\n\r\n0\r\n\r\n", status: 400, body: "-", closes: true},
	{cite: "7.1: a chunk ends where its size says", say: post1 + chunky + "\r\n2\r\nabc\r\n0\r\n\r\n", status: 400, body: "-", closes: true},
	{cite: "7.1.1: extensions that are not known are ignored, and end here", say: post1 + chunky + "\r\n2;a=b\r\nhi\r\n0\r\n\r\n", forwarded: []string{"2\r\nhi\r\n0\r\n"}, absent: []string{"a=b"}, status: 200, body: "ok"},
	{cite: "7.1.1: the length of extensions is limited", say: post1 + chunky + "\r\n2;" + strings.Repeat("a", 2000) + "\r\nhi\r\n0\r\n\r\n", status: 400, body: "-", closes: true},
	{cite: "7.1.2: trailers are forwarded", say: post1 + chunky + "Trailer: A\r\n\r\n0\r\nA: b\r\n\r\n", forwarded: []string{"Trailer: A\r\n", "0\r\nA: b\r\n\r\n"}, status: 200, body: "ok"},
	{cite: "7.1.2 and RFC 9110, 6.5.1: framing fields are no trailers", say: post1 + chunky + "\r\n0\r\nContent-Length: 5\r\n\r\n", status: 400, body: "-", closes: true},
	{cite: "7.1.2: trailers of answers are forwarded", say: get1 + "\r\n", reply: "HTTP/1.1 200 OK\r\nTrailer: A\r\n" + chunky + "\r\n2\r\nok\r\n0\r\nA: b\r\n\r\n", forwarded: []string{"GET"}, status: 200, body: "ok", answer: []string{"Trailer: A\r\n", "0\r\nA: b\r\n\r\n"}},
	{cite: "7.4: TE is for one connection; trailers may be asked for", say: get1 + "TE: trailers, gzip;q=0.5\r\nConnection: TE\r\n\r\n", forwarded: []string{"Te: trailers\r\n"}, absent: []string{"gzip", "Connection"}, status: 200, body: "ok"},

	// Incomplete messages.
	{cite: "8: an answer that is cut short is not made whole", say: get1 + "\r\n", reply: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok$", forwarded: []string{"GET"}, status: 200, body: "!", closes: true},
	{cite: "8: nor is a chunked one", say: get1 + "\r\n", reply: "HTTP/1.1 200 OK\r\n" + chunky + "\r\n2\r\nok\r\n$", forwarded: []string{"GET"}, status: 200, body: "!", closes: true},

	// Connections.
	{cite: "9.2: what an endpoint sends behind its answer is no answer to the next request", say: get1 + "\r\n", reply: ok + "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", forwarded: []string{"GET"}, status: 200, body: "ok"},
	{cite: "9.3: a connection persists", say: get1 + "\r\n", forwarded: []string{"GET"}, absent: []string{"Connection"}, status: 200, body: "ok", lacks: []string{"Connection"}},
	{cite: "9.3: HTTP/1.0 clients of a proxy do not keep connections", say: "GET / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n", forwarded: []string{"GET"}, status: 200, body: "ok", closes: true},
	{cite: "9.6: close is answered by close", say: get1 + "Connection: close\r\n\r\n", forwarded: []string{"GET"}, absent: []string{"close"}, status: 200, body: "ok", answer: []string{"Connection: close\r\n"}, closes: true},
	{cite: "9.6: an endpoint's close is its own affair", say: get1 + "\r\n", reply: "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok$", forwarded: []string{"GET"}, status: 200, body: "ok", lacks: []string{"close"}},
	{cite: "RFC 9110, 7.6.1: what Connection names ends here", say: get1 + "Connection: A\r\nA: 1\r\nB: 2\r\n\r\n", forwarded: []string{"B: 2\r\n"}, absent: []string{"A: 1", "Connection"}, status: 200, body: "ok"},
	{cite: "RFC 9110, 7.6.1: but never the message's framing or host", say: post1 + "Connection: Content-Length, Host\r\nContent-Length: 2\r\n\r\nhi", forwarded: []string{"Host: x\r\n", "Content-Length: 2\r\n\r\nhi"}, status: 200, body: "ok"},
	{cite: "RFC 9110, 7.6.1: hop-by-hop fields end here without being named", say: get1 + "Keep-Alive: 5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: x\r\n\r\n", forwarded: []string{"GET"}, absent: []string{"Keep-Alive", "Proxy"}, status: 200, body: "ok"},
	{cite: "RFC 9110, 7.6.1: in answers, too", say: get1 + "\r\n", reply: "HTTP/1.1 200 OK\r\nConnection: A\r\nA: 1\r\nKeep-Alive: 5\r\nB: 2\r\nContent-Length: 2\r\n\r\nok", forwarded: []string{"GET"}, status: 200, body: "ok", answer: []string{"B: 2\r\n"}, lacks: []string{"A: 1", "Keep-Alive", "Connection"}},
	{cite: "RFC 9110, 7.8: Upgrade is of one connection; without Connection it is nothing", say: get1 + "Upgrade: websocket\r\n\r\n", forwarded: []string{"GET"}, absent: []string{"websocket"}, status: 200, body: "ok"},
	{cite: "RFC 9110, 7.8: an upgrade is offered to the endpoint, which may ignore it", say: get1 + "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", forwarded: []string{"Connection: Upgrade\r\nUpgrade: websocket\r\n"}, status: 200, body: "ok"},
	{cite: "RFC 9113, 3.1: h2c is no protocol to upgrade to", say: get1 + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n", forwarded: []string{"GET"}, absent: []string{"h2c", "HTTP2"}, status: 200, body: "ok"},
	{cite: "RFC 9110, 15.2.2: a 101 that nobody asked for is a bad gateway", say: get1 + "\r\n", reply: "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", forwarded: []string{"GET"}, status: 502, body: "-"},

	// Expectations and interim answers.
	{cite: "RFC 9110, 10.1.1: 100-continue is forwarded with a body that is still to come", say: post1 + "Expect: 100-continue\r\nContent-Length: 2\r\n\r\nhi", reply: ok, forwarded: []string{"Expect: 100-continue\r\n"}, status: 200, body: "ok"},
	{cite: "RFC 9110, 10.1.1: HTTP/1.0 knows no expectations", say: "POST / HTTP/1.0\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi", forwarded: []string{"hi"}, absent: []string{"Expect"}, status: 200, body: "ok", closes: true},
	{cite: "RFC 9110, 15.2: interim answers are forwarded", say: get1 + "\r\n", reply: "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + ok, forwarded: []string{"GET"}, status: 103},
	{cite: "RFC 9110, 15.2: but not to HTTP/1.0", say: "GET / HTTP/1.0\r\nHost: x\r\n\r\n", reply: "HTTP/1.1 103 Early Hints\r\n\r\n" + ok, forwarded: []string{"GET"}, status: 200, body: "ok", lacks: []string{"103"}, closes: true},
	{cite: "RFC 9110, 9.3.8: TRACE goes to the endpoint", say: "TRACE / HTTP/1.1\r\nHost: x\r\n\r\n", forwarded: []string{"TRACE / HTTP/1.1\r\n"}, status: 200, body: "ok"},
}

func TestConformance(t *testing.T) {
	m := start(t)
	for _, c := range clauses {
		t.Run(strings.ReplaceAll(c.cite, " ", "_"), func(t *testing.T) { c.check(t, m) })
	}
}

func (c *clause) check(t *testing.T, m *mesh) {
	arrived := make(chan string, 10)
	front := m.serve("web", httpPort, rawServer(t, func(conn net.Conn) { c.endpoint(conn, arrived) }))
	client := dialRaw(t, front)
	var raw bytes.Buffer
	r := bufio.NewReader(io.TeeReader(client.TCPConn, &raw))
	client.say(c.say)
	method, _, _ := strings.Cut(strings.TrimLeft(c.say, "\r\n"), " ")
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != c.status {
		t.Errorf("status %s, reason %s", resp.Status, resp.Header.Get("tulle-reason"))
	}
	if resp.StatusCode == 103 {
		resp, err = http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			t.Fatal(err)
		}
		c.body = "ok"
	}
	body, err := io.ReadAll(resp.Body)
	if (err != nil) != (c.body == "!") || err == nil && c.body != "-" && string(body) != c.body {
		t.Errorf("body %q, %v", body, err)
	}
	c.checkParts(t, raw.String(), "the answer", c.answer, c.lacks)
	c.checkEnd(t, client, r)
	select {
	case got := <-arrived:
		if c.forwarded == nil {
			t.Errorf("arrived: %q", got)
		} else {
			c.checkParts(t, got, "what arrived", c.forwarded, c.absent)
		}
	default:
		if c.forwarded != nil {
			t.Error("nothing arrived")
		}
	}
}

func (*clause) checkParts(t *testing.T, got, what string, has, lacks []string) {
	t.Helper()
	for _, s := range has {
		if !strings.Contains(got, s) {
			t.Errorf("%s lacks %q: %q", what, s, got)
		}
	}
	for _, s := range lacks {
		if strings.Contains(got, s) {
			t.Errorf("%s has %q: %q", what, s, got)
		}
	}
}

// checkEnd checks that the connection ends, or takes another request.
func (c *clause) checkEnd(t *testing.T, client *rawClient, r *bufio.Reader) {
	t.Helper()
	if c.closes {
		if b, err := io.ReadAll(r); len(b) > 0 || err != nil {
			t.Errorf("behind the answer: %q, %v", b, err)
		}
		return
	}
	client.say("GET /again HTTP/1.1\r\nHost: x\r\n\r\n")
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatalf("the next request: %v", err)
	}
	if b, err := io.ReadAll(resp.Body); string(b) != "again" || err != nil {
		t.Errorf("the next request got %s, %q, %v", resp.Status, b, err)
	}
}

// endpoint serves a connection, and tells what arrives but for "again".
func (c *clause) endpoint(conn net.Conn, arrived chan<- string) {
	var raw bytes.Buffer
	r := bufio.NewReader(io.TeeReader(conn, &raw))
	for {
		raw.Reset()
		req, err := http.ReadRequest(r)
		if err != nil {
			if raw.Len() > 0 && !errors.Is(err, io.EOF) {
				arrived <- raw.String()
			}
			return
		}
		if req.URL.Path == "/again" {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nagain")
			continue
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return // it was broken off, as it should be
		}
		arrived <- raw.String()
		reply, hangUp := strings.CutSuffix(c.reply, "$")
		if reply == "" {
			reply = ok
		}
		_, _ = io.WriteString(conn, reply)
		if hangUp {
			return
		}
	}
}

// Requests that come byte by byte, or many at once, are the same requests.
func TestRequestsHoweverTheyArrive(t *testing.T) {
	m := start(t)
	front := m.serve("web", httpPort, backend(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = w.Write(append([]byte(r.URL.Path), b...))
	}))
	all := "GET /1 HTTP/1.1\r\nHost: x\r\n\r\nPOST /2 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n" +
		"POST /3 HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nabcd"
	for _, step := range []int{1, 5, 50, len(all)} {
		c := dialRaw(t, front)
		if err := c.SetNoDelay(true); err != nil {
			t.Fatal(err)
		}
		go func() {
			for s := all; s != ""; {
				n := min(step, len(s))
				if _, err := io.WriteString(c, s[:n]); err != nil {
					return
				}
				s = s[n:]
			}
		}()
		for _, want := range []string{"/1", "/2abc", "/3abcd"} {
			if _, body := c.answer("GET"); body != want {
				t.Errorf("in steps of %d: %q, want %q", step, body, want)
			}
		}
	}
}

// A client that has closed its half still gets its answer.
func TestHalfClosedClientsGetTheirAnswer(t *testing.T) {
	m := start(t)
	begun, goOn := make(chan struct{}), make(chan struct{})
	c := dialRaw(t, m.serve("web", httpPort, backend(t, func(w http.ResponseWriter, _ *http.Request) {
		close(begun)
		<-goOn
		_, _ = io.WriteString(w, "late")
	})))
	c.say(get1 + "\r\n")
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	within(t, begun, "request at the backend")
	close(goOn)
	if _, body := c.answer("GET"); body != "late" {
		t.Errorf("got %q", body)
	}
}

// Requests that end where a read of the proxy's ends leave nothing behind that nobody looks for.
func TestPipelinedRequestsAreAllAnswered(t *testing.T) {
	m := start(t)
	c := dialRaw(t, m.serve("web", httpPort, backend(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok")
	})))
	const size = 128
	request := get1 + "P: "
	request += strings.Repeat("x", size-len(request)-4) + "\r\n\r\n"
	// The first one is served by itself, as it may be the beginning of HTTP/2.
	c.say(request)
	c.answer("GET")
	for _, n := range []int{32, 64, 1000} {
		c.say(strings.Repeat(request, n))
		for i := range n {
			if resp, _ := c.answer("GET"); resp.StatusCode != http.StatusOK {
				t.Fatalf("request %d of %d: %s", i+1, n, resp.Status)
			}
		}
	}
}

// A client that has reset its connection takes its request with it.
func TestResetClientsCancelTheirRequest(t *testing.T) {
	t.Parallel()
	m := start(t, quickLimits)
	begun, ended := make(chan struct{}), make(chan struct{})
	c := dialRaw(t, m.serve("web", httpPort, backend(t, func(_ http.ResponseWriter, r *http.Request) {
		close(begun)
		<-r.Context().Done()
		close(ended)
	})))
	c.say(get1 + "\r\n")
	within(t, begun, "request at the backend")
	if err := c.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	c.Close()
	within(t, ended, "end of the request at the backend")
}

// Long bodies pass whole in every framing, both ways.
func TestLongBodies(t *testing.T) {
	m := start(t)
	front := m.serve("web", httpPort, backend(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", r.Header.Get("X-Length"))
		}
		_, _ = w.Write(b)
	}))
	long := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	client := &http.Transport{DisableKeepAlives: false}
	for _, path := range []string{"/length", "/chunked"} {
		for _, chunked := range []bool{false, true} {
			for range 3 {
				r := request(t, front)
				r.Method, r.URL.Path = http.MethodPost, path
				r.Body, r.ContentLength = io.NopCloser(strings.NewReader(long)), int64(len(long))
				if chunked {
					r.ContentLength = -1
				}
				r.Header.Set("X-Length", "1048576")
				resp, err := client.RoundTrip(r)
				if err != nil {
					t.Fatal(err)
				}
				if got := text(t, resp); got != long {
					t.Errorf("%s, chunked %v: %d bytes came back", path, chunked, len(got))
				}
			}
		}
	}
}

// An endpoint that answers before it has all of a request gets no other one on that connection, where it would take it
// for the rest of the first.
func TestEarlyAnswersCostTheConnection(t *testing.T) {
	m := start(t)
	connections := make(chan struct{}, 10)
	front := m.serve("web", httpPort, rawServer(t, func(c net.Conn) {
		connections <- struct{}{}
		r := bufio.NewReader(c)
		for {
			if _, err := readHead(r); err != nil {
				return
			}
			_, _ = io.WriteString(c, ok)
		}
	}))
	for range 3 {
		c := dialRaw(t, front)
		c.say(post1 + "Expect: 100-continue\r\nContent-Length: 100\r\n\r\n")
		if resp, body := c.answer("POST"); body != "ok" || !resp.Close {
			t.Errorf("%s %v %q", resp.Status, resp.Header, body)
		}
		within(t, connections, "connection of its own")
	}
}

// A request's body that breaks off is not made whole, and costs nobody else's connection.
func TestBodiesThatBreakOff(t *testing.T) {
	m := start(t)
	whole := make(chan bool, 10)
	front := m.serve("web", httpPort, backend(t, func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		whole <- err == nil
	}))
	for _, raw := range []string{
		post1 + "Content-Length: 100000\r\n\r\nabc", post1 + chunky + "\r\n3\r\nabc\r\n", post1 + chunky + "\r\n3\r\nab",
	} {
		c := dialRaw(t, front)
		c.say(raw)
		<-time.After(20 * time.Millisecond) // the beginning is on its way
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		resp, _ := c.answer("POST")
		refused(t, resp, 400, "bad-request")
		if within(t, whole, "end of the body") {
			t.Errorf("%q was made whole", raw)
		}
	}
}

// RFC 9112, 9.2: what comes while nothing was asked is no answer, and the connection can't be used any more.
func TestWhatNobodyAskedForIsNoAnswer(t *testing.T) {
	for _, request := range []string{get1 + "\r\n", "DELETE / HTTP/1.1\r\nHost: x\r\n\r\n", post1 + "Content-Length: 2\r\n\r\nhi"} {
		method, _, _ := strings.Cut(request, " ")
		t.Run(method, func(t *testing.T) {
			const good, evil = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
			got, said := make(chan struct{}), make(chan struct{})
			var connections atomic.Int32
			m := start(t)
			c := dialRaw(t, m.serve("web", httpPort, rawServer(t, func(up net.Conn) {
				first := connections.Add(1) == 1
				r := bufio.NewReader(up)
				if _, err := readHead(r); err != nil {
					return
				}
				if _, err := io.WriteString(up, good); err != nil {
					return
				}
				if first {
					<-got
					_, _ = io.WriteString(up, evil)
					close(said)
				}
				_, _ = readHead(r)
			})))
			c.say(get1 + "\r\n")
			if _, body := c.answer("GET"); body != "ok" {
				t.Fatalf("the answer is %q", body)
			}
			close(got)
			<-said
			c.say(request)
			if _, body := c.answer(method); body != "ok" {
				t.Errorf("the next answer is %q", body)
			}
		})
	}
}
