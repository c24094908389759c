// Package check says whether a cluster is fit for the mesh and whether an installed mesh works. It only reads, but for
// asking the API server what the user may do. Its functions run on the caller's goroutine.
package check

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/install"
	"github.com/tulle-mesh/tulle/internal/kube"
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
	// Patience is how long to wait before asking again what looks wrong and may be passing; default 3 s.
	Patience time.Duration
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
		{"dns", func(ctx context.Context) ([]Finding, error) { return c.dnsFits(ctx, s) }},
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
		{"signers", m.signers},
		{"identities", m.identities},
		{"dns", m.dns},
		{"zones", func(ctx context.Context) ([]Finding, error) { return c.zones(ctx, s) }},
		{"addresses", m.addresses},
		{"addresses", c.room},
		{"first-hop", m.firstHop},
		{"network-policies", c.networkPolicies},
		{"crds", c.crds},
		{"webhooks", m.webhooks},
		{"bypass", m.bypass},
		{"problems", m.problems},
		{"access", m.access},
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

// dnsFits says whether the zones can be put into the cluster's DNS, and whether somebody else answers for them.
func (c *Checker) dnsFits(ctx context.Context, s install.Settings) ([]Finding, error) {
	if s["dns-mode"] == "off" {
		return c.zones(ctx, s)
	}
	levels := map[kube.DNSLevel]Level{kube.DNSFine: OK, kube.DNSWarn: Note}
	var out []Finding
	for _, f := range install.DNSAccess(c.Cluster, c.Namespace, s).Preflight(ctx, s.List("zones"), s["cluster-domain"]) {
		finding := Finding{Level: cmp.Or(levels[f.Level], Failed), Message: f.Message}
		if finding.Level == Failed {
			finding.Next = "docs/dns.md says what each kind of DNS needs; dns.mode=off leaves it alone"
		}
		out = append(out, finding)
	}
	return out, nil
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
