package proxy_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxy/share"
)

// What is called in audit mode is recorded once, by the node of the destination, where who calls is proved.
func TestObservedOfAnotherNode(t *testing.T) {
	c := newCluster(t, clusterOptions{})
	policy := allow("shop/other", audit)
	web := c.expose("web", httpPort, policy, webServer(t, webAt, header))
	db := c.expose("db", tcpPort, policy, listenAt(t, webAt, echo))
	if got := call(httpFrom(t, clientAt, false), "http://"+web+"/api"); !strings.HasPrefix(got, "200") {
		t.Fatal(got)
	}
	conn := dialFrom(t, clientAt, db)
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	b := &mesh{t: t, Proxy: c.b.Proxy}
	b.awaitObserved(
		"1 shop/client to shop/web by shop/db 80 tcp source-denied",
		"1 shop/client to shop/web by shop/web 80 http GET /api source-denied",
	)
	c.publish("shop/web", allow("shop/else", audit)) // what is live is recorded again
	b.awaitObserved("1 shop/client to shop/web by shop/db 80 tcp source-denied")
	if got := (&mesh{t: t, Proxy: c.a.Proxy}).observed(); len(got) > 0 {
		t.Errorf("recorded by the caller's node: %q", got)
	}
}

// The caller's proxy has let tunnelled requests pass: the one at the destination, which is at its limit, does not refuse
// them for want of a share.
func TestSharesAreTakenOnce(t *testing.T) {
	c := newCluster(t, clusterOptions{far: share.Config{Connections: 1, Requests: 1}})
	release := make(chan struct{})
	arrived := make(chan struct{}, 8)
	front := "http://" + c.expose("web", httpPort, allow("shop/client", audit), webServer(t, webAt, func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-release
		header(w, r)
	}))
	answers := make(chan string, 8)
	for i := range 8 { // of a caller that is known, and of one that is nobody
		from, h2 := []string{clientAt, nobodyAt}[i%2], i%4 > 1
		go func() { answers <- call(httpFrom(t, from, h2), front) }()
	}
	for range 8 {
		select {
		case <-arrived:
		case got := <-answers:
			t.Fatal(got)
		}
	}
	close(release)
	for range 8 {
		if got := <-answers; !strings.HasPrefix(got, "200") {
			t.Error(got)
		}
	}
}

// What the destination's proxy refuses says nothing of the endpoint. What the endpoint itself answers does, whatever it
// says of who it is.
func TestWhoseFaultItIs(t *testing.T) {
	for _, scheme := range []configv1.Scheme{configv1.Scheme_SCHEME_HTTP, configv1.Scheme_SCHEME_H2C} {
		c := newCluster(t, clusterOptions{})
		policy := allow("shop/client", enforce, httpRule)
		front := "http://" + c.expose("web", httpPort, policy, webServer(t, webAt, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("tulle-REASON", "no-policy")
			w.WriteHeader(http.StatusServiceUnavailable)
		}))
		c.speak("web", scheme)
		tenTimes := func(want string) {
			for _, h2 := range []bool{false, true} {
				client := httpFrom(t, clientAt, h2)
				for range 5 {
					if got := call(client, front+"/api"); got != want {
						t.Fatalf("%v: %q, want %q", scheme, got, want)
					}
				}
			}
		}
		c.forget("shop/web")
		tenTimes("503 no-policy")
		if n := c.a.metric("tulle_proxy_ejections_total"); n != 0 {
			t.Errorf("%v ejections of an endpoint that was not asked", n)
		}
		c.b.set("shop/web", policy)
		tenTimes("503 ")
		if n := c.a.metric("tulle_proxy_ejections_total"); n != 1 {
			t.Errorf("%v ejections of an endpoint that failed ten times", n)
		}
	}
}

// speak says how HTTP is spoken to the pods of a service.
func (c *cluster) speak(name string, scheme configv1.Scheme) {
	c.t.Helper()
	s := service(name, httpPort, 80, c.target)
	s.Ports[0].Routes[0].Backends[0].Scheme = scheme
	c.publish("shop/"+name, s)
}

// forget takes a policy away from the proxy of node-b.
func (c *cluster) forget(policy string) {
	c.t.Helper()
	r, err := configv1.NewResource(policy, &configv1.Policy{})
	if err != nil {
		c.t.Fatal(err)
	}
	if refused := c.b.Apply(configv1.Update{Removed: []configv1.Key{r.Key}}); len(refused) > 0 {
		c.t.Fatal(refused)
	}
}

// A pod that is gone costs no request: another one is asked if nothing has reached it, also when the connection to the
// proxy of its node was there already.
func TestPodsThatAreGone(t *testing.T) {
	for _, tc := range []struct {
		name   string
		scheme configv1.Scheme
		h2     bool
		method string
		body   string
	}{
		{"HTTP/1", configv1.Scheme_SCHEME_HTTP, false, http.MethodGet, ""},
		{"HTTP/1 with a body", configv1.Scheme_SCHEME_HTTP, false, http.MethodPost, "some text"},
		{"HTTP/2 to HTTP/1", configv1.Scheme_SCHEME_HTTP, true, http.MethodGet, ""},
		{"HTTP/2 with a body", configv1.Scheme_SCHEME_H2C, true, http.MethodPost, "some text"},
		{"HTTP/1 to HTTP/2", configv1.Scheme_SCHEME_H2C, false, http.MethodPost, "some text"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t, clusterOptions{})
			var served [2]atomic.Int64
			pods := make([]string, 2)
			closes := make([]func(bool), 2)
			for i, at := range []string{webAt, web1At} {
				pods[i], closes[i] = mortal(t, at, func(w http.ResponseWriter, r *http.Request) {
					served[i].Add(1)
					_, _ = io.Copy(w, r.Body)
				})
			}
			front := c.expose("web", httpPort, allow("shop/client", enforce, tcpRule), pods...)
			c.speak("web", tc.scheme)
			client := httpFrom(t, clientAt, tc.h2)
			try := func() error {
				r, err := http.NewRequest(tc.method, "http://"+front+"/api", strings.NewReader(tc.body))
				if err != nil {
					return err
				}
				resp, err := client.Do(r)
				if err != nil {
					return err
				}
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				if err != nil || resp.StatusCode != 200 || string(body) != tc.body {
					return fmt.Errorf("%d %s %q, %w", resp.StatusCode, resp.Header.Get("Tulle-Reason"), body, err)
				}
				return nil
			}
			eventually(t, func() error { // both have connections that are kept
				if err := try(); err != nil {
					t.Fatal(err)
				}
				if served[0].Load() < 3 || served[1].Load() < 3 {
					return errors.New("one pod was not asked")
				}
				return nil
			})
			closes[0](tc.scheme == configv1.Scheme_SCHEME_H2C)
			before := served[1].Load()
			for range 20 {
				if err := try(); err != nil {
					t.Error(err)
				}
			}
			if n := served[1].Load() - before; n != 20 {
				t.Errorf("%d requests were served", n)
			}
			if n := c.a.metric("tulle_proxy_retries_total"); n == 0 {
				t.Error("the pod that is gone was never chosen")
			}
		})
	}
}

// The answer that a pod is gone may be faster than the client with its body, which is for the next pod then.
func TestPodsThatAreGoneBeforeTheBody(t *testing.T) {
	for _, scheme := range []configv1.Scheme{configv1.Scheme_SCHEME_HTTP, configv1.Scheme_SCHEME_H2C} {
		t.Run(scheme.String(), func(t *testing.T) {
			for range 10 { // until the pod that is gone was chosen first
				c := newCluster(t, clusterOptions{})
				gone, end := mortal(t, webAt, nil)
				end(false)
				body, in := io.Pipe()
				here := webServer(t, web1At, func(w http.ResponseWriter, r *http.Request) {
					go func() {
						_, _ = io.WriteString(in, "late")
						in.Close()
					}()
					_, _ = io.Copy(w, r.Body)
				})
				front := c.expose("web", httpPort, allow("shop/client", enforce, tcpRule), gone, here)
				c.speak("web", scheme)
				resp, err := httpFrom(t, clientAt, true).Post("http://"+front+"/api", "text/plain", body)
				if err != nil {
					t.Fatal(err)
				}
				text, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != 200 || string(text) != "late" {
					t.Fatalf("%d %s %q, %v", resp.StatusCode, resp.Header.Get("Tulle-Reason"), text, err)
				}
				if c.a.metric("tulle_proxy_retries_total") > 0 {
					return
				}
			}
			t.Error("the pod that is gone was never chosen")
		})
	}
}
