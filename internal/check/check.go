// Package check says whether a cluster is fit for the mesh and whether an installed mesh works. It only reads, but for
// asking the API server what the user may do. Its functions run on the caller's goroutine.
package check

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/install"
)

// Level says how bad a Finding is.
type Level string

// The levels. Only Failed makes a report fail.
const (
	OK     Level = "ok"
	Note   Level = "note"
	Failed Level = "failed"
)

// Finding is one line of a report.
type Finding struct {
	Check   string `json:"check"` // what was looked at, e.g. "kubernetes"
	Level   Level  `json:"level"`
	Message string `json:"message"`
	Next    string `json:"next,omitempty"` // what to do about it
}

// Report is the result of a check, in the order in which things were looked at.
type Report struct {
	Findings []Finding `json:"findings"`
}

// Failed counts the findings that make the report fail.
func (r Report) Failed() int {
	n := 0
	for _, f := range r.Findings {
		if f.Level == Failed {
			n++
		}
	}
	return n
}

// Checker looks at one mesh, or at the cluster where it is to be installed.
type Checker struct {
	Cluster   *install.Cluster
	Namespace string
	// DNS looks at the cluster's DNS with the settings of the mesh; nil = it is not looked at.
	DNS func(ctx context.Context, s install.Settings) []Finding
}

// check is one thing to look at. An error stands for a failed finding.
type check struct {
	name string
	look func(context.Context) ([]Finding, error)
}

// Pre says whether the release could be installed.
func (c *Checker) Pre(ctx context.Context, r install.Rendered, s install.Settings) Report {
	return c.run(ctx, []check{
		{"kubernetes", c.kubernetes},
		{"permissions", func(ctx context.Context) ([]Finding, error) { return c.permissions(ctx, r) }},
		{"namespace", c.namespace},
		{"zones", func(ctx context.Context) ([]Finding, error) { return c.zones(ctx, s) }},
		{"dns", func(ctx context.Context) ([]Finding, error) { return c.dnsKind(ctx, s), nil }},
		{"crds", c.crds},
		{"addresses", c.room},
		{"network-policies", c.networkPolicies},
	})
}

// Installed says whether the installed mesh works.
func (c *Checker) Installed(ctx context.Context, s install.Settings) Report {
	m := &mesh{Checker: c, settings: s}
	return c.run(ctx, []check{
		{"kubernetes", c.kubernetes},
		{"controllers", m.controllers},
		{"proxies", m.proxies},
		{"config", m.config},
		{"dns", m.dns},
		{"zones", func(ctx context.Context) ([]Finding, error) { return c.zones(ctx, s) }},
		{"addresses", m.addresses},
		{"addresses", c.room},
		{"first-hop", m.firstHop},
		{"network-policies", c.networkPolicies},
		{"crds", c.crds},
		{"problems", m.problems},
	})
}

func (c *Checker) run(ctx context.Context, checks []check) Report {
	var out Report
	for _, check := range checks {
		findings, err := check.look(ctx)
		if err != nil {
			findings = append(findings, failure(err))
		}
		for i := range findings {
			findings[i].Check = check.name
		}
		out.Findings = append(out.Findings, findings...)
	}
	return out
}

// failure makes a finding of an error.
func failure(err error) Finding {
	var explained *install.Error
	if !errors.As(install.Explain(err), &explained) {
		return Finding{Level: Failed, Message: err.Error(), Next: "run the check again"}
	}
	message, _, _ := strings.Cut(err.Error(), "\nnext: ")
	return Finding{Level: Failed, Message: message, Next: explained.Next}
}

// dnsKind looks at the cluster's DNS unless the mesh leaves it alone.
func (c *Checker) dnsKind(ctx context.Context, s install.Settings) []Finding {
	if c.DNS == nil || s["dns-mode"] == "off" {
		return nil
	}
	return c.DNS(ctx, s)
}

// some names the first few of many.
func some(names []string) string {
	slices.Sort(names)
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return strings.Join(names[:most], ", ") + ", …"
}
