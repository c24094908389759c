package main

import (
	"bufio"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/integration/images/report"
	"github.com/tulle-mesh/tulle/internal/proxy/socket/sockettest"
)

// rude is an HTTP server that reads every request and answers only the first of a connection: after that it closes.
func rude(t *testing.T) (addr string, requests *atomic.Int64) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	requests = new(atomic.Int64)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				r := bufio.NewReader(c)
				for i := range 2 {
					if _, err := http.ReadRequest(r); err != nil {
						return
					}
					requests.Add(1)
					if i == 0 {
						_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{\"pod\":\"me\"}"))
					}
				}
			}()
		}
	}()
	return ln.Addr().String(), requests
}

// A call that fails is a failure: it is never sent again, as net/http's client would.
func TestLoadDoesNotRepeatCalls(t *testing.T) {
	addr, requests := rude(t)
	var out strings.Builder
	err := load(t.Context(), []string{"-name", t.Name(), "-rate", "100", "-c", "1", "-duration", "300ms", "http://" + addr}, &out)
	if err != nil {
		t.Fatal(err)
	}
	var s report.Summary
	if err := json.Unmarshal([]byte(out.String()), &s); err != nil {
		t.Fatal(err)
	}
	if s.Failed == 0 || s.OK == 0 || s.OK+s.Failed != s.Calls {
		t.Errorf("of %d calls %d were answered and %d failed; want some of both", s.Calls, s.OK, s.Failed)
	}
	if sent := int64(s.Calls - s.Errors["too many calls at once"]); sent != requests.Load() {
		t.Errorf("%d calls were sent, and %d requests came", sent, requests.Load())
	}
	if s.ByPod["me"] != s.OK {
		t.Errorf("answers by pod are %v, want %d", s.ByPod, s.OK)
	}
}

// Whatever order calls end in, connections are kept and used again.
func TestLoadKeepsConnections(t *testing.T) {
	var all []string
	var made, served atomic.Int64
	for range 3 {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if n := served.Add(1); n < 50 && n%3 == 0 { // others overtake it
				<-time.After(30 * time.Millisecond)
			}
			_, _ = w.Write([]byte("{}"))
		}))
		s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				made.Add(1)
			}
		}
		s.Start()
		t.Cleanup(s.Close)
		all = append(all, s.URL)
	}
	var out strings.Builder
	args := append([]string{"-name", t.Name(), "-rate", "500", "-c", "12", "-per-conn", "1000", "-duration", "1s"}, all...)
	if err := load(t.Context(), args, &out); err != nil {
		t.Fatal(err)
	}
	var s report.Summary
	if err := json.Unmarshal([]byte(out.String()), &s); err != nil {
		t.Fatal(err)
	}
	if s.OK < 100 || made.Load() > 12 {
		t.Errorf("%d of %d calls were answered, on %d connections, want 12 at most", s.OK, s.Calls, made.Load())
	}
}

func TestStopEndsLoad(t *testing.T) {
	addr, _ := rude(t)
	ended := make(chan error, 1)
	go func() {
		ended <- load(t.Context(), []string{"-name", t.Name(), "http://" + addr}, &strings.Builder{})
	}()
	for deadline := time.Now().Add(10 * time.Second); stopLoad(t.Context(), []string{t.Name()}, nil) != nil; {
		if time.Now().After(deadline) {
			t.Fatal("load can't be stopped")
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A connection that the server has closed is not used, as with every client; that is no failure.
func TestPeerClosed(t *testing.T) {
	client, server := sockettest.Pair(t)
	if peerClosed(client) {
		t.Error("an open connection counts as closed")
	}
	server.Close()
	for deadline := time.Now().Add(10 * time.Second); !peerClosed(client); {
		if time.Now().After(deadline) {
			t.Fatal("a closed connection counts as open")
		}
	}
}

func TestExpand(t *testing.T) {
	targets, err := expandTargets([]string{"http://svc-{8-10}.x:81/{a}", "udp://y:53"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, g := range targets {
		got = append(got, g.kind+" "+g.addr)
	}
	want := []string{"http svc-8.x:81", "http svc-9.x:81", "http svc-10.x:81", "udp y:53"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("targets (-want +got):\n%s", diff)
	}
	addrs, err := expandAddrs(":80,127.0.0.1:90-92")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{":80", "127.0.0.1:90", "127.0.0.1:91", "127.0.0.1:92"}, addrs); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
	for _, bad := range []string{"80", ":a-b", "x:1-"} {
		if _, err := expandAddrs(bad); err == nil {
			t.Errorf("address %q is taken", bad)
		}
	}
}
