package main

import (
	"context"
	"encoding/json"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/integration/images/report"
)

// free returns an address of a port that was free a moment ago, for TCP and UDP.
func free(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// Every client understands its server.
func TestClientsAndServers(t *testing.T) {
	t.Setenv("POD_NAME", "pod-1")
	t.Setenv("VERSION", "v2")
	http, https, tcpAddr, banner, udpAddr := free(t), free(t), free(t), free(t), free(t)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- serve(ctx, []string{"-http", http, "-https", https, "-tcp", tcpAddr, "-banner", banner, "-udp", udpAddr}, &strings.Builder{})
	}()
	for name, args := range map[string][]string{
		"http":      {"get", "-H", "A: b", "http://" + http + "/x%2Fy"},
		"h2c":       {"get", "-h2c", "http://" + http},
		"https":     {"get", "https://" + https},
		"tcp":       {"tcp", tcpAddr},
		"banner":    {"tcp", "-banner", banner},
		"udp":       {"udp", "-n", "3", udpAddr},
		"udp, same": {"udp", "-n", "3", "-same", udpAddr},
	} {
		s := callUntilOK(t, args)
		if s.ByPod["pod-1"] != s.OK || s.ByVersion["v2"] != s.OK || s.Failed > 0 {
			t.Errorf("%s: %+v", name, s)
		}
		if name == "http" && (s.Last.URI != "/x%2Fy" || s.Last.Headers["A"][0] != "b" || s.Last.Proto != "HTTP/1.1") {
			t.Errorf("%s: the server saw %+v", name, s.Last)
		}
		if name == "h2c" && s.Last.Proto != "HTTP/2.0" {
			t.Errorf("%s: the server saw %+v", name, s.Last)
		}
	}
	if s := callUntilOK(t, []string{"ws", "http://" + http}); s.OK != 1 {
		t.Errorf("ws: %+v", s)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// A server that is told to fail does, but where a request asks for something else.
func TestStatus(t *testing.T) {
	addr := free(t)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- serve(ctx, []string{"-http", addr, "-status", "500"}, &strings.Builder{}) }()
	if s := callUntilOK(t, []string{"get", "http://" + addr + "/?status=200"}); s.ByStatus[200] != 1 {
		t.Errorf("asked for 200: %+v", s)
	}
	var out strings.Builder
	if err := run(t.Context(), []string{"get", "http://" + addr}, &out); err != nil || !strings.Contains(out.String(), `"byStatus":{"500":1}`) {
		t.Errorf("not asked for anything: %v: %s", err, out.String())
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// callUntilOK repeats a command while its server is starting.
func callUntilOK(t *testing.T, args []string) report.Summary {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		var out strings.Builder
		if err := run(t.Context(), args, &out); err != nil {
			t.Fatal(err)
		}
		var s report.Summary
		if err := json.Unmarshal([]byte(out.String()), &s); err != nil {
			t.Fatal(err)
		}
		if s.OK == s.Calls || time.Now().After(deadline) {
			return s
		}
	}
}
