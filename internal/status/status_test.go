package status

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/internal/problem"
)

func leader(problems int) Leader {
	l := Leader{Pod: "c-1", Version: "v1", Updated: time.Unix(1000, 0).UTC(), ConfigVersion: "abc", ProblemCount: problems, DNS: &DNS{Mode: "manage", State: "ok"}}
	for i := range problems {
		l.Problems = append(l.Problems, FromProblem(problem.Problem{
			Object: problem.Ref{APIVersion: "v1", Kind: "Service", Namespace: "shop", Name: fmt.Sprintf("web-%d-%x", i, uint64(i)*0x9e3779b97f4a7c15)},
			Reason: "Reason", Message: fmt.Sprintf("%x", uint64(i)*0xbf58476d1ce4e5b9),
		}))
	}
	return l
}

func TestRoundTrip(t *testing.T) {
	tests := []struct {
		name       string
		problems   int
		compressed bool
	}{
		{"small is plain", 3, false},
		{"large is compressed", 2000, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := Status{Leader: leader(tt.problems), Bypass: true, Replicas: []Replica{
				{Pod: "c-1", Version: "v1", Proxies: []Proxy{{Pod: "p-1", Node: "n-1", Current: true}}},
				{Pod: "c-2", Version: "v1"},
			}}
			data, packed := map[string]string{"something": "else", BypassKey: "on"}, map[string][]byte{}
			b, compressed, err := EncodeLeader(want.Leader)
			if err != nil || compressed != tt.compressed {
				t.Fatalf("compressed %v, err %v", compressed, err)
			}
			if compressed {
				packed[LeaderKey+".gz"] = b
			} else {
				data[LeaderKey] = string(b)
			}
			for _, r := range want.Replicas {
				b, _, err := Encode(r)
				if err != nil {
					t.Fatal(err)
				}
				data[ReplicaKey(r.Pod)] = string(b)
			}
			got, err := Decode(data, packed)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTooManyProblemsAreCutNotRefused(t *testing.T) {
	b, compressed, err := EncodeLeader(leader(60000))
	if err != nil || !compressed || len(b) > sizeLimit {
		t.Fatalf("%d bytes, compressed %v, err %v", len(b), compressed, err)
	}
	got, err := Decode(nil, map[string][]byte{LeaderKey + ".gz": b})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(got.Leader.Problems); n == 0 || n >= 60000 || got.Leader.ProblemCount != 60000 {
		t.Errorf("%d of %d problems kept", n, got.Leader.ProblemCount)
	}
}

func TestUnreadableIsAnError(t *testing.T) {
	if _, err := Decode(map[string]string{LeaderKey: "{"}, nil); err == nil {
		t.Error("broken JSON was accepted")
	}
	if _, err := Decode(nil, map[string][]byte{LeaderKey + ".gz": []byte("x")}); err == nil {
		t.Error("broken gzip was accepted")
	}
}

func TestLongMessagesAreCutAtACharacter(t *testing.T) {
	p := FromProblem(problem.Problem{Message: strings.Repeat("ü", 1000)})
	if len(p.Message) > 400 || !utf8.ValidString(p.Message) || !strings.HasSuffix(p.Message, "…") {
		t.Errorf("%d bytes: %q", len(p.Message), p.Message)
	}
}
