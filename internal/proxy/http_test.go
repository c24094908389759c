package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestRequestTargetPassesByteForByte(t *testing.T) {
	m := start(t)
	address, heads := recorder(t, ok)
	front := m.serve("web", httpPort, address)
	for _, target := range []string{
		"/", "/a/b", "/a%2Fb%2f%7e", "/a//b/../c/./d", "//a/b", "//a%2Fb", "//a|b", "/a;b=c,d", "/a|b^c`{}\"<>", "/\xc3\xa4",
		"/?", "/?q=a+b%20c&&x;y", "/a?b?c", "*", "/~user/!$&'()*+,;=:@",
	} {
		method := "GET"
		if target == "*" {
			method = "OPTIONS"
		}
		c := dialRaw(t, front)
		c.say(method + " " + target + " HTTP/1.1\r\nHost: x\r\n\r\n")
		if resp, _ := c.answer(method); resp.StatusCode != 200 {
			t.Errorf("%s: %s %v", target, resp.Status, resp.Header)
			continue
		}
		head := within(t, heads, "request")
		if got, _, _ := strings.Cut(head, "\r\n"); got != method+" "+target+" HTTP/1.1" {
			t.Errorf("sent %s %s, arrived %q", method, target, got)
		}
	}
}

func TestAbsoluteFormLosesOnlyItsAuthority(t *testing.T) {
	m := start(t)
	address, heads := recorder(t, ok)
	front := m.serve("web", httpPort, address)
	for sent, want := range map[string]string{
		"http://web.shop.mesh/a%2Fb?c": "/a%2Fb?c", "http://web.shop.mesh": "/", "http://web.shop.mesh?c=d": "/?c=d",
	} {
		c := dialRaw(t, front)
		c.say("GET " + sent + " HTTP/1.1\r\nHost: web.shop.mesh\r\n\r\n")
		c.answer("GET")
		head := within(t, heads, "request")
		if got, _, _ := strings.Cut(head, "\r\n"); got != "GET "+want+" HTTP/1.1" {
			t.Errorf("%s arrived as %q", sent, got)
		}
		if !strings.Contains(head, "\r\nHost: web.shop.mesh\r\n") {
			t.Errorf("host is gone:\n%s", head)
		}
	}
}

func TestHeadersPassWithoutAdditions(t *testing.T) {
	m := start(t)
	address, heads := recorder(t, ok)
	c := dialRaw(t, m.serve("web", httpPort, address))
	c.say("GET / HTTP/1.1\r\nHost: Any.Thing:81\r\nX-One: a\r\nX-One: b\r\nx-lower: c\r\nX-Empty:\r\n\r\n")
	resp, _ := c.answer("GET")
	want := "GET / HTTP/1.1\r\nHost: Any.Thing:81\r\nX-One: a\r\nX-One: b\r\nx-lower: c\r\nX-Empty:\r\n" +
		"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: Any.Thing:81\r\n" +
		"X-Forwarded-Client-Cert: URI=spiffe://cluster.local/ns/shop/sa/client\r\n\r\n"
	if got := within(t, heads, "request"); got != want {
		t.Errorf("arrived:\n%s\nwant:\n%s", got, want)
	}
	if len(resp.Header) != 1 || resp.Header.Get("Content-Length") != "2" {
		t.Errorf("the response gained headers: %v", resp.Header)
	}
}

func TestForwardedHeadersAreAppendedTo(t *testing.T) {
	m := start(t)
	address, heads := recorder(t, ok)
	c := dialRaw(t, m.serve("web", httpPort, address))
	c.say("GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2\r\n" +
		"X-Forwarded-Proto: https\r\nX-Forwarded-Host: outside\r\n\r\n")
	c.answer("GET")
	head := within(t, heads, "request")
	for _, want := range []string{
		"X-Forwarded-For: 1.1.1.1, 2.2.2.2, 127.0.0.1\r\n", "X-Forwarded-Proto: https\r\n", "X-Forwarded-Host: outside\r\n",
	} {
		if !strings.Contains(head, want) {
			t.Errorf("no %q in\n%s", want, head)
		}
	}
}

func TestHopByHopFieldsEndHere(t *testing.T) {
	m := start(t)
	address, heads := recorder(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive, X-Mine\r\nX-Mine: 1\r\n"+
		"Keep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nX-Stays: 1\r\n\r\nok")
	c := dialRaw(t, m.serve("web", httpPort, address))
	c.say("GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, x-mine, X-Forwarded-For\r\nX-Mine: 1\r\nKeep-Alive: 300\r\n" +
		"Proxy-Authorization: Basic eA==\r\nProxy-Connection: keep-alive\r\nTE: trailers, deflate\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n" +
		"X-Forwarded-For: 6.6.6.6\r\nX-Stays: 1\r\n\r\n")
	resp, _ := c.answer("GET")
	head := within(t, heads, "request")
	for _, gone := range []string{"X-Mine", "Keep-Alive", "Proxy-", "Connection", "Upgrade", "Http2-Settings", "deflate", "6.6.6.6"} {
		if strings.Contains(head, gone) {
			t.Errorf("%s arrived:\n%s", gone, head)
		}
	}
	for _, kept := range []string{"X-Stays: 1\r\n", "Te: trailers\r\n", "X-Forwarded-For: 127.0.0.1\r\n"} {
		if !strings.Contains(head, kept) {
			t.Errorf("%s did not arrive:\n%s", kept, head)
		}
	}
	for _, gone := range []string{"X-Mine", "Keep-Alive", "Connection", "Proxy-Authenticate"} {
		if _, ok := resp.Header[gone]; ok {
			t.Errorf("%s came back", gone)
		}
	}
	if resp.Header.Get("X-Stays") != "1" {
		t.Error("X-Stays did not come back")
	}
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	m := start(t)
	c := dialRaw(t, m.serve("web", httpPort, backend(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprint(w, r.URL.Path, string(b))
	})))
	c.say("GET /1 HTTP/1.1\r\nHost: x\r\n\r\nPOST /2 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc" +
		"POST /3 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\nGET /4 HTTP/1.1\r\nHost: x\r\n\r\n")
	for _, want := range []string{"/1", "/2abc", "/3de", "/4"} {
		if _, body := c.answer("GET"); body != want {
			t.Errorf("answer %q, want %q", body, want)
		}
	}
}

func TestBodiesStreamBothWays(t *testing.T) {
	m := start(t)
	c := dialRaw(t, m.serve("web", httpPort, backend(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		_ = rc.Flush()
		b := make([]byte, 10)
		for {
			n, err := r.Body.Read(b)
			if n > 0 {
				fmt.Fprintf(w, "<%s>", b[:n])
				_ = rc.Flush()
			}
			if err != nil {
				return
			}
		}
	})))
	c.say("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
	resp, err := http.ReadResponse(c.r, &http.Request{Method: "POST"})
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"one", "two", "three"} {
		c.say(fmt.Sprintf("%x\r\n%s\r\n", len(part), part))
		b := make([]byte, len(part)+2)
		if _, err := io.ReadFull(resp.Body, b); err != nil || string(b) != "<"+part+">" {
			t.Fatalf("after %q came %q, %v", part, b, err)
		}
	}
	c.say("0\r\n\r\n")
	if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
		t.Errorf("rest %q, %v", rest, err)
	}
}

// A head whose body takes its time is not held back for it.
func TestHeadComesBeforeASlowBody(t *testing.T) {
	m := start(t)
	goOn := make(chan struct{})
	c := dialRaw(t, m.serve("web", httpPort, rawServer(t, func(c net.Conn) {
		if _, err := readHead(bufio.NewReader(c)); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
			<-goOn
			_, _ = io.WriteString(c, "ok")
		}
	})))
	c.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	close(goOn)
	if b, err := io.ReadAll(resp.Body); string(b) != "ok" {
		t.Errorf("body %q, %v", b, err)
	}
}

func TestExpectContinue(t *testing.T) {
	m := start(t)
	front := m.serve("web", httpPort, backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(http.StatusExpectationFailed)
			return
		}
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s", r.Header.Get("Expect"), b)
	}))
	t.Run("wanted", func(t *testing.T) {
		c := dialRaw(t, front)
		c.say("POST /yes HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
		if line, _ := c.r.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
			t.Fatalf("got %q", line)
		}
		if line, _ := c.r.ReadString('\n'); line != "\r\n" {
			t.Fatalf("got %q", line)
		}
		c.say("body")
		if resp, body := c.answer("POST"); body != "100-continue body" {
			t.Errorf("%s %q", resp.Status, body)
		}
	})
	t.Run("unwanted", func(t *testing.T) {
		c := dialRaw(t, front)
		c.say("POST /no HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
		if resp, _ := c.answer("POST"); resp.StatusCode != http.StatusExpectationFailed {
			t.Errorf("status %s", resp.Status)
		}
	})
}

func TestInterimResponsesPass(t *testing.T) {
	m := start(t)
	c := dialRaw(t, m.serve("web", httpPort, rawServer(t, func(c net.Conn) {
		if _, err := readHead(bufio.NewReader(c)); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"+ok)
		}
	})))
	c.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil || resp.StatusCode != 103 || resp.Header.Get("Link") != "</a>" || len(resp.Header) != 1 {
		t.Fatalf("%v, %v", resp, err)
	}
	if resp, body := c.answer("GET"); resp.StatusCode != 200 || body != "ok" || resp.Header.Get("Link") != "" {
		t.Errorf("%s %v %q", resp.Status, resp.Header, body)
	}
}

// An answer may come before the request's body, and ends the wait for it.
func TestEarlyResponse(t *testing.T) {
	m := start(t)
	front := m.serve("web", httpPort, rawServer(t, func(c net.Conn) {
		if _, err := readHead(bufio.NewReader(c)); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
			<-time.After(100 * time.Millisecond)
		}
	}))
	c := dialRaw(t, front)
	c.say("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nbegin")
	if resp, body := c.answer("POST"); resp.StatusCode != 413 || body != "big" {
		t.Errorf("%s %q", resp.Status, body)
	}
}

func TestResponsesWithoutBody(t *testing.T) {
	m := start(t)
	for _, c := range []struct{ method, answer, length string }{
		{"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", "1234"},
		{"HEAD", "HTTP/1.1 200 OK\r\n\r\n", ""},
		{"GET", "HTTP/1.1 204 No Content\r\n\r\n", ""},
		{"GET", "HTTP/1.1 304 Not Modified\r\nEtag: \"a\"\r\n\r\n", ""},
		{"GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "0"},
	} {
		address, _ := recorder(t, c.answer)
		conn := dialRaw(t, m.serve("web", httpPort, address))
		for range 2 { // the second one shows that the connection is intact
			conn.say(c.method + " / HTTP/1.1\r\nHost: x\r\n\r\n")
			resp, body := conn.answer(c.method)
			if body != "" || resp.Header.Get("Content-Length") != c.length || len(resp.TransferEncoding) > 0 {
				t.Errorf("%s, %q: %v %v %q", c.method, c.answer, resp.Header, resp.TransferEncoding, body)
			}
		}
	}
}

func TestCloseDelimitedAndHTTP10Responses(t *testing.T) {
	m := start(t)
	front := m.serve("old", httpPort, rawServer(t, func(c net.Conn) {
		if _, err := readHead(bufio.NewReader(c)); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.0 200 OK\r\nX-Old: 1\r\n\r\nuntil the end")
		}
	}))
	c := dialRaw(t, front)
	for range 2 {
		c.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if resp, body := c.answer("GET"); body != "until the end" || resp.Header.Get("X-Old") != "1" {
			t.Errorf("%s %q", resp.Status, body)
		}
	}
	old := dialRaw(t, front)
	old.say("GET / HTTP/1.0\r\n\r\n")
	b, err := io.ReadAll(old.r)
	if err != nil || !strings.HasSuffix(string(b), "\r\n\r\nuntil the end") {
		t.Errorf("HTTP/1.0 client got %q, %v", b, err)
	}
}

func TestTrailersPassBothWays(t *testing.T) {
	m := start(t)
	c := dialRaw(t, m.serve("web", httpPort, backend(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Trailer", "X-Announced")
		fmt.Fprint(w, r.Trailer.Get("X-Sum"), r.Trailer.Get("X-Silent"))
		w.Header().Set("X-Announced", "1")
		w.Header().Set(http.TrailerPrefix+"X-Not-Announced", "2")
	})))
	c.say("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n1\r\na\r\n0\r\nX-Sum: s\r\nX-Silent: t\r\n\r\n")
	resp, body := c.answer("POST")
	if body != "st" {
		t.Errorf("the backend saw trailers %q", body)
	}
	if resp.Trailer.Get("X-Announced") != "1" || resp.Trailer.Get("X-Not-Announced") != "2" {
		t.Errorf("trailers %v", resp.Trailer)
	}
}

func TestChunkedGETIsForwardedAtOnce(t *testing.T) {
	m := start(t)
	address, heads := recorder(t, ok)
	c := dialRaw(t, m.serve("web", httpPort, address))
	c.say("GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n") // and no chunk
	if head := within(t, heads, "request"); !strings.Contains(head, "Transfer-Encoding: chunked\r\n") {
		t.Errorf("arrived:\n%s", head)
	}
}

// What a backend didn't finish must not look finished.
func TestBrokenResponsesAreBrokenOff(t *testing.T) {
	m := start(t)
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
	} {
		front := m.serve("web", httpPort, rawServer(t, func(c net.Conn) {
			if _, err := readHead(bufio.NewReader(c)); err == nil {
				_, _ = io.WriteString(c, answer)
			}
		}))
		c := dialRaw(t, front)
		c.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, err := http.ReadResponse(c.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("%q came through as whole: %q", answer, b)
		}
	}
}
