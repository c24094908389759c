package meter

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// A line means what encoding/json would have written, whatever clients send.
func TestEntriesAreTheirJSON(t *testing.T) {
	full := Entry{
		Time: time.Date(2026, 1, 2, 3, 4, 5, 678900, time.UTC), Protocol: "HTTP/1.1", Client: "10.0.0.1", SourceNamespace: "a",
		SourcePod: "b", SourceWorkload: "c", Namespace: "d", Service: "e", Port: 80, Split: "f", Backend: "g", Endpoint: "h",
		Method: "GET", Host: "i", Path: "/j", Status: 200, Reason: "k", BytesIn: 1, BytesOut: 1 << 40, Seconds: 0.000123, Attempts: 2,
	}
	odd := full
	odd.Host, odd.Path, odd.Method = "\"\\\n\x00\x7f", "/\xff\xc3\xa4<>&\u2028", "M'X"
	for _, e := range []Entry{full, odd, {}} {
		line := string(e.append(nil))
		if strings.Count(line, "\n") != 1 || !strings.HasSuffix(line, "\n") {
			t.Errorf("not one line: %q", line)
		}
		want, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		var got, expected Entry
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if err := json.Unmarshal(want, &expected); err != nil {
			t.Fatal(err)
		}
		if got != expected {
			t.Errorf("got %s, want %s", line, want)
		}
		var names, wantNames map[string]any
		if err := json.Unmarshal([]byte(line), &names); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(want, &wantNames); err != nil {
			t.Fatal(err)
		}
		if len(names) != len(wantNames) {
			t.Errorf("fields %v, want %v", names, wantNames)
		}
	}
}
