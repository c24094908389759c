package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

// h2cClient speaks HTTP/2 with prior knowledge.
func h2cClient(t *testing.T) *http.Transport {
	t.Helper()
	tr := &http.Transport{DisableCompression: true, Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// tell answers with the protocol and what else arrived.
func tell(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	w.Header().Set("Trailer", "X-Sum")
	fmt.Fprintf(w, "%s %s %s %s %q %s", r.Proto, r.Method, r.Host, r.RequestURI, b, r.Trailer.Get("X-Sum"))
	w.Header().Set("X-Sum", "42")
}

func (m *mesh) serveScheme(name string, scheme configv1.Scheme, address string) string {
	m.t.Helper()
	target := m.sockets.free()
	s := service(name, httpPort, 80, target)
	s.Ports[0].Routes[0].Backends[0].Scheme = scheme
	m.set("shop/"+name, endpoints(name, httpPort, 80, address))
	m.set("shop/"+name, s)
	return m.sockets.address(httpPort, target)
}

func TestEveryClientProtocolToEveryScheme(t *testing.T) {
	m := start(t)
	plain := backend(t, tell)
	secure := httptest.NewUnstartedServer(http.HandlerFunc(tell))
	secure.EnableHTTP2 = true
	secure.StartTLS()
	t.Cleanup(secure.Close)
	clients := map[string]http.RoundTripper{"h1": &http.Transport{}, "h2c": h2cClient(t)}
	for _, s := range []struct {
		scheme   configv1.Scheme
		address  string
		protocol string
	}{
		{configv1.Scheme_SCHEME_UNSPECIFIED, plain, "HTTP/1.1"},
		{configv1.Scheme_SCHEME_HTTP, plain, "HTTP/1.1"},
		{configv1.Scheme_SCHEME_H2C, plain, "HTTP/2.0"},
		{configv1.Scheme_SCHEME_HTTPS, secure.Listener.Addr().String(), "HTTP/2.0"},
	} {
		front := m.serveScheme("web", s.scheme, s.address)
		for name, client := range clients {
			t.Run(fmt.Sprint(name, " to ", s.scheme), func(t *testing.T) {
				r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+front+"/a%2Fb?c", io.MultiReader(strings.NewReader("body")))
				if err != nil {
					t.Fatal(err)
				}
				r.Host = "any.host:1"
				r.Trailer = http.Header{"X-Sum": []string{"41"}}
				resp, err := client.RoundTrip(r)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				want := s.protocol + ` POST any.host:1 /a%2Fb?c "body" 41`
				if got := text(t, resp); got != want || resp.Trailer.Get("X-Sum") != "42" {
					t.Errorf("got %s, trailers %v; want %s", got, resp.Trailer, want)
				}
			})
		}
	}
}

func TestUpgradeOverTLS(t *testing.T) {
	m := start(t)
	secure := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			http.Error(w, r.Proto+" "+err.Error(), http.StatusInternalServerError)
			return
		}
		defer c.Close()
		fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: Shout/1\r\nX-Key: k\r\n\r\nhello\n")
		for {
			rw.Flush()
			line, err := rw.ReadString('\n')
			if err != nil {
				return
			}
			fmt.Fprint(rw, strings.ToUpper(line))
		}
	}))
	secure.EnableHTTP2 = true
	secure.StartTLS()
	t.Cleanup(secure.Close)
	shout(t, m.serveScheme("web", configv1.Scheme_SCHEME_HTTPS, secure.Listener.Addr().String()))
}

// HTTP/2 has room for targets that would be another request on HTTP/1.
func TestTargetsThatWouldSplitARequestAreRefused(t *testing.T) {
	m := start(t)
	address, heads := recorder(t, ok)
	front := m.serve("web", httpPort, address)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+front, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.URL.Opaque = "/a HTTP/1.1"
	resp, err := h2cClient(t).RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	refused(t, resp, 400, "bad-request")
	select {
	case head := <-heads:
		t.Errorf("arrived: %s", head)
	default:
	}
}

func TestResetStreamsCancelTheRequest(t *testing.T) {
	m := start(t)
	begun, ended := make(chan struct{}), make(chan struct{})
	front := m.serve("web", httpPort, backend(t, func(_ http.ResponseWriter, r *http.Request) {
		close(begun)
		<-r.Context().Done()
		close(ended)
	}))
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+front, nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		<-begun
		cancel()
	}()
	if _, err := h2cClient(t).RoundTrip(r); err == nil {
		t.Error("got an answer")
	}
	within(t, ended, "end of the request at the backend")
}

// More streams than a backend takes on one connection go over further ones.
func TestManyStreams(t *testing.T) {
	m := start(t)
	const streams = 60
	arrived, release := make(chan struct{}, streams), make(chan struct{})
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		arrived <- struct{}{}
		<-release
		fmt.Fprint(w, "ok")
	}))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 10}
	s.Start()
	t.Cleanup(s.Close)
	front := m.serveScheme("web", configv1.Scheme_SCHEME_H2C, s.Listener.Addr().String())
	client := h2cClient(t)
	answers := make(chan string, streams)
	for range streams {
		go func() { answers <- ask(t, client, front) }()
	}
	for range streams {
		within(t, arrived, "stream at the backend")
	}
	close(release)
	for range streams {
		if got := within(t, answers, "answer"); got != "ok" {
			t.Error(got)
		}
	}
}

// A stream that nobody reads does not stall the others of its connection.
func TestStalledStreams(t *testing.T) {
	m := start(t)
	front := m.serveScheme("web", configv1.Scheme_SCHEME_H2C, backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/big" {
			_, _ = w.Write(make([]byte, 16<<20))
			return
		}
		fmt.Fprint(w, "ok")
	}))
	client := h2cClient(t)
	for range 3 {
		r := request(t, front)
		r.URL.Path = "/big"
		resp, err := client.RoundTrip(r) // and nobody reads the body
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
	}
	other := h2cClient(t) // a client of its own, but the same connection to the backend
	for range 20 {
		if got := ask(t, other, front); got != "ok" {
			t.Error(got)
		}
	}
}
