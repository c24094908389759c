package access_test

import (
	"fmt"
	"testing"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/access"
)

// many is a policy with n targets of other sources, and one of shop/client.
func many(n int) *configv1.Policy {
	p := &configv1.Policy{Groups: api()}
	for i := range n - 1 {
		p.Grants = append(p.Grants, grant(fmt.Sprintf("shop/t%d", i), fmt.Sprintf("shop/c%d", i), &configv1.Rule{Kind: httpKind, Name: "api"}))
	}
	p.Grants = append(p.Grants, grant("shop/mine", "shop/client", &configv1.Rule{Kind: httpKind, Name: "api"}))
	return p
}

// BenchmarkDecide: targets that name other sources cost nothing.
func BenchmarkDecide(b *testing.B) {
	port := access.Port{Number: 80, Protocol: access.HTTP}
	for _, n := range []int{1, 100, 10_000} {
		w := compile(b, many(n))
		for name, r := range map[string]*access.Request{"allowed": request("GET", "/api/v1/items"), "denied": request("POST", "/api/v1/items")} {
			b.Run(fmt.Sprintf("targets=%d/%s", n, name), func(b *testing.B) {
				for b.Loop() {
					if v := access.Decide(known("shop/client"), w, port, r); v.Allow != (name == "allowed") {
						b.Fatal(v)
					}
				}
			})
		}
	}
}

// BenchmarkDecideSameSource: targets that name one group are one rule, however many there are.
func BenchmarkDecideSameSource(b *testing.B) {
	p := &configv1.Policy{Groups: api()}
	for i := range 10_000 {
		p.Grants = append(p.Grants, grant(fmt.Sprintf("shop/t%d", i), "shop/client", &configv1.Rule{Kind: httpKind, Name: "api"}))
	}
	w := compile(b, p)
	r := request("POST", "/api/v1/items")
	for b.Loop() {
		if v := access.Decide(known("shop/client"), w, access.Port{Number: 80, Protocol: access.HTTP}, r); v.Allow {
			b.Fatal(v)
		}
	}
}

func BenchmarkCanonical(b *testing.B) {
	for name, path := range map[string]string{"plain": "/api/v1/items/42", "escaped": "/api/%76%31/items/%2e%2e/x%20y"} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, ok := access.Canonical(path, false); !ok {
					b.Fatal("refused")
				}
			}
		})
	}
}

// TestCostIsFlat: a decision allocates nothing, whatever other targets there are.
func TestCostIsFlat(t *testing.T) {
	port := access.Port{Number: 80, Protocol: access.HTTP}
	r := request("GET", "/api/v1/items")
	for _, n := range []int{1, 10_000} {
		w := compile(t, many(n))
		got := testing.AllocsPerRun(100, func() { access.Decide(known("shop/client"), w, port, r) })
		if got > 0 {
			t.Errorf("%d targets: %v allocations", n, got)
		}
	}
}
