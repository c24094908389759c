package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/install"
	"github.com/tulle-mesh/tulle/internal/status"
)

func TestStatusShowsTheWayAround(t *testing.T) {
	var b strings.Builder
	if err := (meshStatus{Status: &status.Status{Leader: status.Leader{Direct: []status.Direct{
		{Workload: "shop/api", Mode: "close", State: "Enforced"},
		{Workload: "shop/db", Mode: "close", State: "EnforcedExcept", Except: []string{"backup", "10.1.0.0/16"}},
		{Workload: "shop/web", Mode: "report", State: "Bypassable", Why: []string{"no NetworkPolicy closes TCP port 80", "another reason"}},
	}}}}).write(&b); err != nil {
		t.Fatal(err)
	}
	want := `
PROTECTED WORKLOAD  BYPASS  CALLS PAST THE MESH
shop/api            close   Enforced
shop/db             close   Enforced except backup, 10.1.0.0/16
shop/web            report  Bypassable: no NetworkPolicy closes TCP port 80; another reason
`
	if !strings.HasSuffix(b.String(), want) {
		t.Errorf("got %s\nwant it to end in %s", b.String(), want)
	}
}

func TestStatusSaysWhoCertifies(t *testing.T) {
	for want, signers := range map[string]*install.Signers{
		"": nil, "signers none: tulle-identity is not there": {Missing: true}, "signers 1 of 2 available": {Available: 1, Wanted: 2},
	} {
		var b strings.Builder
		out := meshStatus{&status.Status{}, signers}
		if err := out.write(&b); err != nil {
			t.Fatal(err)
		}
		text := strings.Join(strings.Fields(b.String()), " ")
		if strings.Contains(text, "signers") != (want != "") || !strings.Contains(text, want) {
			t.Errorf("%+v: %s", signers, text)
		}
		var read meshStatus
		b.Reset()
		if err := writeJSON(&b, out); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(b.String()), &read); err != nil {
			t.Fatal(err)
		}
		if (read.Signers == nil) != (signers == nil) || signers != nil && *read.Signers != *signers {
			t.Errorf("%+v: read as %+v", signers, read.Signers)
		}
	}
}
