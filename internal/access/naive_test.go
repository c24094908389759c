package access_test

import (
	"net/textproto"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/access"
	"github.com/tulle-mesh/tulle/internal/access/accesstest"
)

// TestAgreesWithNaive compares decisions with those of an evaluator that knows SMI and nothing of this package.
// TULLE_MODELS says how many models are made, with 100 calls each.
func TestAgreesWithNaive(t *testing.T) {
	models := uint64(200)
	if s := os.Getenv("TULLE_MODELS"); s != "" {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		models = n
	}
	for seed := range models {
		m := accesstest.Generate(seed)
		compiled := map[string]*access.Workload{}
		for _, w := range accesstest.Workloads() {
			compiled[w] = compile(t, m.Policy(w))
		}
		for i := range uint64(100) {
			c := m.Call(seed*100 + i)
			v := access.Decide(callerOf(c), compiled[c.To], portOf(c), requestOf(m, c))
			if want := m.Decide(c); string(v.Reason) != want || v.Allow != (want == "") {
				t.Fatalf("model %d: %+v\ngot %+v, want %q\n%+v", seed, c, v, want, m)
			}
		}
	}
}

func callerOf(c accesstest.Call) access.Caller {
	namespace, name, _ := strings.Cut(c.Caller, "/")
	standing := map[string]access.Standing{"known": access.Known, "stale": access.Stale, "elsewhere": access.Elsewhere}[c.Standing]
	return access.Caller{Identity: access.Identity{Namespace: namespace, ServiceAccount: name}, Standing: standing}
}

func portOf(c accesstest.Call) access.Port {
	protocol := map[string]access.Protocol{"http": access.HTTP, "tcp": access.TCP, "udp": access.UDP}[c.Protocol]
	return access.Port{Number: uint32(c.Port), Protocol: protocol}
}

func requestOf(m *accesstest.Model, c accesstest.Call) *access.Request {
	if c.Protocol != "http" {
		return nil
	}
	headers := map[string][]string{}
	for _, h := range c.Headers {
		name := textproto.CanonicalMIMEHeaderKey(h[0])
		headers[name] = append(headers[name], h[1])
	}
	return &access.Request{
		Method: c.Method, Path: c.Path, Host: c.Host, EncodedSlash: m.EncodedSlash,
		Values: func(name string) []string { return headers[name] },
	}
}
