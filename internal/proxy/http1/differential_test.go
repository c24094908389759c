package http1

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"net/textproto"
	"net/url"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/proxy/exchange"
	"github.com/tulle-mesh/tulle/internal/proxy/policy"
)

var defaultLimits = Limits{Line: 8 << 10, Head: 64 << 10, Fields: 200}

// readAll reads a body that is all there.
func readAll(s *source) (data []byte, err error) {
	for {
		p, err := s.ready()
		data = append(data, p...)
		switch {
		case err != nil:
			return data, err
		case len(p) > 0:
		case s.ended.Load():
			return data, nil
		default:
			if err := s.fill(); err != nil {
				return data, err
			}
		}
	}
}

// nothing is a connection that has ended.
type nothing struct{}

func (nothing) Read([]byte) (int, error) { return 0, io.EOF }

// reading is what a reader makes of a message.
type reading struct {
	first   string // method, target and host, or the status
	header  http.Header
	body    string
	trailer http.Header
	rest    string // what follows the message
}

func (r *reading) String() string {
	return fmt.Sprintf("%s\n%v\n%q\n%v\n%q", r.first, r.header, r.body, r.trailer, r.rest)
}

// endToEnd drops what concerns one connection, as the proxy does.
func endToEnd(h http.Header) http.Header {
	h = maps.Clone(h)
	for _, list := range h["Connection"] {
		for name := range strings.SplitSeq(list, ",") {
			delete(h, http.CanonicalHeaderKey(strings.Trim(name, " \t")))
		}
	}
	for _, name := range []string{
		"Connection", "Proxy-Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Content-Length", "Upgrade",
		"Proxy-Authenticate", "Proxy-Authorization", "Http2-Settings", "Expect", "X-Forwarded-For", "X-Forwarded-Proto",
		"X-Forwarded-Host", "Forwarded",
	} {
		delete(h, name)
	}
	maps.DeleteFunc(h, func(name string, _ []string) bool { return policy.IsOwn(name) })
	return h
}

// connectionOf puts back the Connection field, which net/http takes out of answers.
func connectionOf(h http.Header, b []byte) http.Header {
	r := textproto.NewReader(bufio.NewReader(bytes.NewReader(b)))
	if _, err := r.ReadLine(); err == nil {
		if all, err := r.ReadMIMEHeader(); err == nil {
			h["Connection"] = all["Connection"]
		}
	}
	return h
}

// theirs is net/http's reading of a request.
func theirs(b []byte) (*reading, error) {
	r := bufio.NewReaderSize(bytes.NewReader(b), len(b)+16)
	req, err := http.ReadRequest(r)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	rest, _ := io.ReadAll(r)
	return &reading{
		fmt.Sprintf("%s %s %s", req.Method, origin(req.RequestURI), strings.ToLower(req.Host)), endToEnd(req.Header), string(data), req.Trailer, string(rest),
	}, nil
}

// origin brings a target into origin form.
func origin(target string) string {
	if _, rest, ok := strings.Cut(target, "://"); ok && !strings.HasPrefix(target, "/") {
		i := strings.IndexAny(rest, "/?")
		switch {
		case i < 0:
			return "/"
		case rest[i] == '?':
			return "/" + rest[i:]
		}
		return rest[i:]
	}
	return target
}

// ours is what a request is rewritten to, and what follows it.
func ours(b []byte) (forwarded []byte, rest string, err error) {
	var r request
	n, err := r.parse(b, defaultLimits)
	if err != nil {
		return nil, "", err
	}
	if n == 0 {
		return nil, "", io.ErrUnexpectedEOF
	}
	if string(r.method) == http.MethodConnect {
		return nil, "", errMethod // refused whatever it says
	}
	var s source
	s.begin(nothing{}, r.body, b, n)
	out := r.appendHead(nil, hopHeader{target: string(r.target), host: "endpoint", client: &exchange.Client{Addr: netip.MustParseAddr("192.0.2.1"), Text: "192.0.2.1"}})
	w := sink{buffer: out, framed: r.body.framing}
	data, err := readAll(&s)
	if err != nil {
		return nil, "", err
	}
	if r.body.framing == chunked && len(data) > 0 {
		w.buffer = fmt.Appendf(w.buffer, "%x\r\n%s\r\n", len(data), data)
	} else {
		w.buffer = append(w.buffer, data...)
	}
	w.end(&s.chunks.trailers)
	return w.buffer, string(s.rest()), nil
}

// accepted are the requests that this reader takes and net/http's does not, each for a reason that docs/data-plane.md
// gives.
func accepted(b []byte) bool {
	return bytes.HasPrefix(b, []byte("\r\n"))
}

func FuzzRequest(f *testing.F) {
	for _, c := range requestCases {
		f.Add([]byte(c.raw))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		forwarded, rest, err := ours(b)
		want, theirErr := theirs(b)
		if err != nil {
			return // refused: net/http may be more patient
		}
		if theirErr != nil {
			if accepted(b) {
				want, theirErr = theirs(b[2:])
			}
			if theirErr != nil {
				t.Fatalf("net/http refuses it: %v\n%q", theirErr, b)
			}
		}
		got, err := theirs(forwarded)
		if err != nil {
			t.Fatalf("net/http refuses what is forwarded: %v\n%q\nas\n%q", err, b, forwarded)
		}
		if got.rest != "" {
			t.Fatalf("one request became more\n%q\nas\n%q", b, forwarded)
		}
		got.rest = rest
		if !strings.Contains(string(b), "\nHost:") && got.first != want.first {
			want.first += "endpoint" // HTTP/1.0 may go without
			if !strings.HasSuffix(got.first, "endpoint") {
				want.first = strings.TrimSuffix(want.first, "endpoint")
			}
		}
		compare(t, b, forwarded, got, want)
	})
}

func compare(t *testing.T, b, forwarded []byte, got, want *reading) {
	t.Helper()
	for _, r := range []*reading{got, want} {
		maps.DeleteFunc(r.trailer, func(_ string, v []string) bool { return len(v) == 0 })
		if len(r.trailer) == 0 {
			r.trailer = nil
		}
	}
	if got.String() != want.String() {
		t.Fatalf("another meaning:\n%q\nas\n%q\nis\n%v\nwant\n%v", b, forwarded, got, want)
	}
}

func FuzzResponse(f *testing.F) {
	for _, c := range responseCases {
		f.Add([]byte(c.raw), c.head)
	}
	f.Fuzz(func(t *testing.T, b []byte, head bool) {
		forwarded, rest, err := relay(b, head)
		if err != nil {
			return
		}
		want, err := theirAnswer(b, head)
		if err != nil {
			t.Fatalf("net/http refuses it: %v\n%q", err, b)
		}
		got, err := theirAnswer(forwarded, head)
		if err != nil {
			t.Fatalf("net/http refuses what is passed on: %v\n%q\nas\n%q", err, b, forwarded)
		}
		if got.rest != "" {
			t.Fatalf("one answer became more\n%q\nas\n%q", b, forwarded)
		}
		got.rest = rest
		compare(t, b, forwarded, got, want)
	})
}

var errInterim = errors.New("not a final answer")

// relay is what an answer is rewritten to for a client that speaks HTTP/1.1, and what follows it.
func relay(b []byte, head bool) (forwarded []byte, rest string, err error) {
	var r response
	n, err := r.parse(b, defaultLimits)
	if err != nil {
		return nil, "", err
	}
	if n == 0 {
		return nil, "", io.ErrUnexpectedEOF
	}
	if r.status < 200 {
		return nil, "", errInterim
	}
	body, odd := r.body(head)
	if odd {
		return nil, "", errAnswer
	}
	framed := body.framing
	if framed == untilClose {
		framed = chunked
	}
	var s source
	s.begin(nothing{}, body, b, n)
	w := sink{buffer: r.appendHead(nil, framed, false), framed: framed}
	data, err := readAll(&s)
	if err != nil {
		return nil, "", err
	}
	if framed == chunked && len(data) > 0 {
		w.buffer = fmt.Appendf(w.buffer, "%x\r\n%s\r\n", len(data), data)
	} else {
		w.buffer = append(w.buffer, data...)
	}
	w.end(&s.chunks.trailers)
	return w.buffer, string(s.rest()), nil
}

func theirAnswer(b []byte, head bool) (*reading, error) {
	r := bufio.NewReaderSize(bytes.NewReader(b), len(b)+16)
	req := &http.Request{Method: http.MethodGet}
	if head {
		req.Method = http.MethodHead
	}
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	rest, _ := io.ReadAll(r)
	return &reading{fmt.Sprint(resp.StatusCode), endToEnd(connectionOf(resp.Header, b)), string(data), resp.Trailer, string(rest)}, nil
}

// What is parsed must not depend on how it arrives.
func FuzzChunks(f *testing.F) {
	for _, c := range chunkCases {
		f.Add([]byte(c.raw), uint8(1))
	}
	f.Fuzz(func(t *testing.T, b []byte, step uint8) {
		if step == 0 {
			step = 1
		}
		var whole, pieces source
		whole.begin(nothing{}, body{framing: chunked}, b, 0)
		want, wantErr := readAll(&whole)
		pieces.begin(&slow{b, int(step)}, body{framing: chunked}, nil, 0)
		got, err := readAll(&pieces)
		defer pieces.free()
		defer whole.free()
		if (err == nil) != (wantErr == nil) || err == nil && !bytes.Equal(got, want) {
			t.Fatalf("%q in steps of %d: %q, %v; want %q, %v", b, step, got, err, want, wantErr)
		}
		if wantErr != nil {
			return
		}
		raw := "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + string(b)
		theirs, err := theirs([]byte(raw))
		if err != nil {
			t.Fatalf("net/http refuses it: %v\n%q", err, b)
		}
		if theirs.body != string(want) {
			t.Fatalf("%q means %q to net/http, and %q here", b, theirs.body, want)
		}
	})
}

// slow is a connection on which bytes come a few at a time.
type slow struct {
	b    []byte
	step int
}

func (s *slow) Read(p []byte) (int, error) {
	if len(s.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.b[:min(s.step, len(s.b))])
	s.b = s.b[n:]
	return n, nil
}

// FuzzTarget holds this package's idea of a target against net/url's.
func FuzzTarget(f *testing.F) {
	for _, s := range []string{"/", "/a%2fb", "/%zz", "//a", "/a?b#c", "/a|b", "*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.HasPrefix(s, "/") && checkTarget([]byte(s)) == nil {
			if _, err := url.ParseRequestURI(s); err != nil {
				t.Fatalf("net/url refuses %q: %v", s, err)
			}
		}
	})
}
