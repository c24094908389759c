package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

// HTTP/1 clients of a backend that speaks HTTP/2 notice nothing of it.
func TestHTTP1ClientsOfH2CBackends(t *testing.T) {
	m := start(t)
	front := m.serveScheme("web", configv1.Scheme_SCHEME_H2C, backend(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/none":
			w.WriteHeader(http.StatusNoContent)
			return
		case "/early":
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		case "/break":
			fmt.Fprint(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case "/length":
			w.Header().Set("Content-Length", "3")
		case "/hints":
			w.Header().Set("Link", "a")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Del("Link")
		}
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%d%s", len(b), strings.Repeat("x", 2))
	}))
	long := strings.Repeat("x", 200_000)
	for _, c := range []struct {
		name, say, body string
		status          int
		length          string
		closes          bool
	}{
		{"GET", get1 + "\r\n", "0xx", 200, "", false},
		{"length", "GET /length HTTP/1.1\r\nHost: x\r\n\r\n", "0xx", 200, "3", false},
		{"HEAD", "HEAD /length HTTP/1.1\r\nHost: x\r\n\r\n", "", 200, "3", false},
		{"204", "GET /none HTTP/1.1\r\nHost: x\r\n\r\n", "", 204, "", false},
		{"body", post1 + "Content-Length: 3\r\n\r\nabc", "3xx", 200, "", false},
		{"long body", post1 + "Content-Length: 200000\r\n\r\n" + long, "200000xx", 200, "", false},
		{"chunks", post1 + chunky + "\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n", "4xx", 200, "", false},
		{"HTTP/1.0", "GET / HTTP/1.0\r\nHost: x\r\n\r\n", "0xx", 200, "", true},
		{"close", get1 + "Connection: close\r\n\r\n", "0xx", 200, "", true},
		{"interim", "GET /hints HTTP/1.1\r\nHost: x\r\n\r\n", "0xx", 103, "", false},
		{"early", "POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\nbegin", "", 413, "0", true},
		{"bad body", post1 + chunky + "\r\nx\r\n", "-", 400, "", true},
		{"cut short", "GET /break HTTP/1.1\r\nHost: x\r\n\r\n", "!", 200, "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := dialRaw(t, front)
			conn.say(c.say)
			method, _, _ := strings.Cut(c.say, " ")
			resp, err := http.ReadResponse(conn.r, &http.Request{Method: method})
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != c.status || c.length != "" && resp.Header.Get("Content-Length") != c.length {
				t.Errorf("%s %v", resp.Status, resp.Header)
			}
			if c.status == 103 {
				resp, err = http.ReadResponse(conn.r, &http.Request{Method: method})
				if err != nil || resp.Header.Get("Link") != "" {
					t.Fatal(resp, err)
				}
			}
			b, err := io.ReadAll(resp.Body)
			if (err != nil) != (c.body == "!") || err == nil && c.body != "-" && string(b) != c.body {
				t.Errorf("body %q, %v", b, err)
			}
			if c.closes {
				if rest, err := io.ReadAll(conn.r); len(rest) > 0 || err != nil {
					t.Errorf("behind the answer: %q, %v", rest, err)
				}
				return
			}
			conn.say(get1 + "\r\n")
			if resp, body := conn.answer("GET"); body != "0xx" {
				t.Errorf("the next request: %s %q", resp.Status, body)
			}
		})
	}
}

func TestExpectContinueOfH2CBackends(t *testing.T) {
	m := start(t)
	c := dialRaw(t, m.serveScheme("web", configv1.Scheme_SCHEME_H2C, backend(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s", b)
	})))
	c.say(post1 + "Expect: 100-continue\r\nContent-Length: 4\r\n\r\n")
	if line, _ := c.r.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("got %q", line)
	}
	if line, _ := c.r.ReadString('\n'); line != "\r\n" {
		t.Fatalf("got %q", line)
	}
	c.say("body")
	if resp, body := c.answer("POST"); body != "body" {
		t.Errorf("%s %q", resp.Status, body)
	}
}

// The time limit of a service counts while the client still sends, too, whatever the backend speaks.
func TestTimeLimitWhileTheBodyStalls(t *testing.T) {
	t.Parallel()
	m := start(t)
	for _, scheme := range []configv1.Scheme{configv1.Scheme_SCHEME_HTTP, configv1.Scheme_SCHEME_H2C} {
		t.Run(scheme.String(), func(t *testing.T) {
			target := m.sockets.free()
			s := service("web", httpPort, 80, target)
			s.Ports[0].TimeoutMs = 300
			s.Ports[0].Routes[0].Backends[0].Scheme = scheme
			m.set("shop/web", endpoints("web", httpPort, 80, backend(t, func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				fmt.Fprintf(w, "%d", len(b))
			})))
			m.set("shop/web", s)
			for range 2 {
				c := dialRaw(t, m.sockets.address(httpPort, target))
				c.say(post1 + "Content-Length: 10\r\n\r\nabc")
				begun := time.Now()
				resp, _ := c.answer("POST")
				refused(t, resp, 504, "timeout")
				if took := time.Since(begun); took < 200*time.Millisecond {
					t.Errorf("after %v", took)
				}
			}
			c := dialRaw(t, m.sockets.address(httpPort, target)) // others are not disturbed
			for range 3 {
				c.say(post1 + "Content-Length: 3\r\n\r\nabc")
				if resp, body := c.answer("POST"); body != "3" {
					t.Errorf("%s %q", resp.Status, body)
				}
			}
		})
	}
}
