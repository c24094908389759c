//go:build linux

package main

import (
	"context"
	"fmt"
	"testing"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/access"
)

// measureDecisions is what the decision about a request costs, with more and more targets that name other sources.
func measureDecisions(context.Context) (*outcome, error) {
	rows := [][]string{{"targets of the workload", "allowed", "denied"}}
	for _, n := range []int{1, 100, 10_000} {
		w, err := new(access.Compiler).Compile(policyOf(n))
		if err != nil {
			return nil, err
		}
		row := []string{fmt.Sprint(n)}
		for _, method := range []string{"GET", "POST"} {
			took, err := decide(w, method, method == "GET")
			if err != nil {
				return nil, err
			}
			row = append(row, took)
		}
		rows = append(rows, row)
	}
	return &outcome{scenario: scenario{name: "decisions", title: "what a decision costs"}, rows: rows}, nil
}

func decide(w *access.Workload, method string, allow bool) (string, error) {
	caller := access.Caller{Identity: access.Identity{Namespace: "shop", ServiceAccount: "client"}, Standing: access.Known}
	port, request := access.Port{Number: 80, Protocol: access.HTTP}, &access.Request{Method: method, Path: "/a/path"}
	if v := access.Decide(caller, w, port, request); v.Allow != allow {
		return "", fmt.Errorf("%s: %+v", method, v)
	}
	r := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			access.Decide(caller, w, port, request)
		}
	})
	return fmt.Sprintf("%d ns", r.NsPerOp()), nil
}

// policyOf is a policy with n targets of which one is the caller's.
func policyOf(n int) *configv1.Policy {
	p := &configv1.Policy{
		Namespace: "shop", ServiceAccount: "web", Mode: configv1.AccessMode_ACCESS_MODE_ENFORCE,
		Groups: []*configv1.MatchGroup{{Name: "shop/reads", Matches: []*configv1.Match{{PathRegex: "^(?:/a/.*)", Methods: []string{"GET"}}}}},
	}
	for i := range n {
		source := &configv1.Source{Namespace: "shop", ServiceAccount: "client"}
		if i > 0 {
			source.ServiceAccount = fmt.Sprint("other-", i)
		}
		p.Grants = append(p.Grants, &configv1.Grant{
			Target: fmt.Sprint("shop/allow-", i), Sources: []*configv1.Source{source},
			Rules: []*configv1.Rule{{Kind: configv1.RuleKind_RULE_KIND_HTTP, Name: "reads"}},
		})
	}
	return p
}
