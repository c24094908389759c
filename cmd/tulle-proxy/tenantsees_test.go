//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// The quiet client sees a pause in all the requests that were due in it, and each answer that is not the one it wants.
func TestQuietClientSees(t *testing.T) {
	for name, tc := range map[string]struct {
		answer func(w http.ResponseWriter, n int64)
		late   bool // most requests
		errors int
	}{
		"nothing":      {func(w http.ResponseWriter, _ int64) { fmt.Fprint(w, "ok") }, false, 0},
		"another body": {func(w http.ResponseWriter, n int64) { fmt.Fprint(w, "ok"+strings.Repeat("!", int(n%2))) }, false, 53},
		"a refusal": {func(w http.ResponseWriter, n int64) {
			if n == 50 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			fmt.Fprint(w, "ok")
		}, false, 1},
		"a pause": {func(w http.ResponseWriter, n int64) {
			if n == 10 {
				<-time.After(250 * time.Millisecond)
			}
			fmt.Fprint(w, "ok")
		}, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var n atomic.Int64
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { tc.answer(w, n.Add(1)) }))
			defer s.Close()
			q := quiet{
				Address: s.Listener.Addr().String(), From: "127.0.0.1", Body: "ok", Rate: 500, Connections: 1, Every: 25, For: 200 * time.Millisecond,
			}
			var out bytes.Buffer
			if err := q.run(t.Context(), nil, &out); err != nil {
				t.Fatal(err)
			}
			var r quietResult
			line, _ := bytes.CutPrefix(out.Bytes(), []byte("true\n"))
			if err := json.Unmarshal(line, &r); err != nil {
				t.Fatalf("%v: %s", err, &out)
			}
			if r.Requests != 104 || r.Errors != tc.errors || tc.late && r.P50 < 20*time.Millisecond {
				t.Errorf("it saw %+v", r)
			}
		})
	}
}
