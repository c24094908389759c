package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/integration/images/report"
)

// serving starts a server of everything and returns what ends it.
func serving(t *testing.T, http, tcpAddr, udpAddr string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- serve(ctx, []string{"-http", http, "-tcp", tcpAddr, "-udp", udpAddr}, io.Discard) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	callUntilOK(t, []string{"get", "http://" + http})
	callUntilOK(t, []string{"udp", udpAddr})
	return cancel
}

func TestCalls(t *testing.T) {
	t.Setenv("POD_NAME", "pod-1")
	web, tcpAddr, udpAddr, nobody := free(t), free(t), free(t), free(t)
	serving(t, web, tcpAddr, udpAddr)
	list := []report.Call{
		{Kind: "http", Target: "http://" + web + "/a%2Fb?status=403", Method: "PUT", Headers: []string{"A: 1", "A: 2"}},
		{Kind: "h2c", Target: "http://" + web + "/"},
		{Kind: "grpc", Target: "http://" + web + "/s/m"},
		{Kind: "tcp", Target: tcpAddr},
		{Kind: "udp", Target: udpAddr},
		{Kind: "tcp", Target: nobody},
		{Kind: "other"},
	}
	b, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := run(t.Context(), []string{"calls", string(b)}, &out); err != nil {
		t.Fatal(err)
	}
	wantOutcomes(t, list, out.String())
	wantOutcomes(t, list, post(t, "http://"+web+"/calls?timeout=5s&silence=1s", string(b)))
	if got := post(t, "http://"+web+"/calls?timeout=5s", string(b)); !strings.Contains(got, "duration") {
		t.Errorf("without a duration: %s", got)
	}
}

func post(t *testing.T, url, body string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func wantOutcomes(t *testing.T, list []report.Call, out string) {
	t.Helper()
	var got []report.Outcome
	if err := json.Unmarshal([]byte(out), &got); err != nil || len(got) != len(list) {
		t.Fatalf("%v: %s", err, out)
	}
	for i, o := range got[:5] {
		if o.Error != "" || o.Answer == nil || o.Answer.Pod != "pod-1" {
			t.Errorf("%v: %+v", list[i], o)
		}
	}
	if a := got[0].Answer; got[0].Status != 403 || a.URI != "/a%2Fb?status=403" || a.Method != "PUT" || len(a.Headers["A"]) != 2 || a.Proto != "HTTP/1.1" {
		t.Errorf("the server saw %+v", a)
	}
	if a := got[2].Answer; a.Proto != "HTTP/2.0" || a.Method != "POST" || a.Headers["Content-Type"][0] != "application/grpc" {
		t.Errorf("the server saw %+v", a)
	}
	for i, o := range got[5:] {
		if o.Error == "" || o.Answer != nil {
			t.Errorf("%v: %+v", list[5+i], o)
		}
	}
}

// hold says when it has an answer and when it gets none any more.
func TestHold(t *testing.T) {
	http, tcpAddr, udpAddr := free(t), free(t), free(t)
	stop := serving(t, http, tcpAddr, udpAddr)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() { // answers once
		c, err := ln.Accept()
		if err != nil {
			return
		}
		_, _ = io.CopyN(c, c, 5)
		c.Close()
	}()
	for _, tc := range []struct {
		target string
		ends   bool // before the time is over
		before func()
	}{
		{"tcp://" + tcpAddr, false, nil},
		{"tcp://" + ln.Addr().String(), true, nil},
		{"ws://" + http + "/", false, nil},
		{"udp://" + udpAddr, true, stop},
	} {
		duration, silence := "200ms", "20s"
		if tc.ends {
			duration = "30s"
		}
		if strings.HasPrefix(tc.target, "udp:") { // whose end is silence
			silence = "1s"
		}
		r, w := io.Pipe()
		go func() {
			w.CloseWithError(run(t.Context(), []string{"hold", "-silence", silence, "-duration", duration, tc.target}, w))
		}()
		lines := json.NewDecoder(r)
		var opened, ended report.Held
		if err := lines.Decode(&opened); err != nil || !opened.Open {
			t.Fatalf("%s: %+v, %v", tc.target, opened, err)
		}
		if tc.before != nil {
			tc.before()
		}
		if err := lines.Decode(&ended); err != nil || ended.Open == tc.ends || (ended.Error != "") != tc.ends || ended.At.Before(opened.At) {
			t.Errorf("%s: %+v, %v", tc.target, ended, err)
		}
	}
}
