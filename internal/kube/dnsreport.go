package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/status"
)

// DNSWriter is what the process that keeps the cluster's DNS is called: its Deployment, its ServiceAccount and its Lease.
const DNSWriter = status.DNSConfigMap

// DNSRecorder writes down what a DNSManager knows, for the controllers: they are what people ask.
type DNSRecorder struct {
	DNSAccess
	Manager *DNSManager
	Pod     string // this one
	Version string // of the build
	Log     *slog.Logger
	// Refresh is how often it is written although nothing changed: somebody may delete it. Default 5 min.
	Refresh time.Duration
	Retry   time.Duration // after a failure; default 5 s
}

// Run writes until ctx ends: what the manager finds first, and then what changed.
func (r DNSRecorder) Run(ctx context.Context) error {
	refresh, retry := cmp.Or(r.Refresh, 5*time.Minute), cmp.Or(r.Retry, 5*time.Second)
	var last DNSState
	for due := time.NewTimer(refresh); ; {
		select {
		case <-ctx.Done():
			due.Stop()
			return nil
		case <-r.Manager.Changed():
			if s := r.Manager.State(); s.Phase == "" || equal(s, last) {
				continue
			}
		case <-due.C:
		}
		s, next := r.Manager.State(), refresh
		if err := r.write(ctx, s); err == nil {
			last = s
		} else if next = retry; ctx.Err() == nil {
			r.Log.Warn("the state of the cluster DNS cannot be written down", "err", err)
		}
		due.Reset(next)
	}
}

func (r DNSRecorder) write(ctx context.Context, s DNSState) error {
	d := s.Status()
	if d == nil {
		return nil
	}
	d.Writer = r.Pod
	doc := status.DNSReport{Pod: r.Pod, Version: r.Version, Updated: time.Now().UTC().Truncate(time.Second), DNS: *d}
	for _, p := range s.Problems() {
		doc.Problems = append(doc.Problems, status.WholeProblem(p))
	}
	data, err := json.Marshal(doc)
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	return r.setKey(ctx, status.DNSKey, string(data))
}

// dnsMap is the ConfigMap in which a DNSRecorder writes: what is read of it.
type dnsMap struct {
	namespace, name string
	report          *status.DNSReport // nil if there is none that can be read
}

func (m dnsMap) GetNamespace() string { return m.namespace }
func (m dnsMap) GetName() string      { return m.name }

// same compares what makes a difference: not when it was written.
func (m dnsMap) same(o dnsMap) bool {
	a, b := m.report, o.report
	return (a == nil) == (b == nil) && (a == nil || a.Pod == b.Pod && equal(a.DNS, b.DNS) && slices.Equal(a.Problems, b.Problems))
}

func keepDNSReport(obj any) (dnsMap, bool) {
	c, ok := obj.(*corev1.ConfigMap)
	if !ok || c.Name != status.DNSConfigMap {
		return dnsMap{}, false
	}
	out := dnsMap{namespace: c.Namespace, name: c.Name}
	r := &status.DNSReport{}
	if json.Unmarshal([]byte(c.Data[status.DNSKey]), r) == nil {
		out.report = r
	}
	return out, true
}

// DNS is a controller.Config's DNS: what the process that keeps the cluster's DNS wrote down. One that is gone is not
// believed: nobody knows what has become of the DNS since.
func (s *Source) DNS() (*status.DNS, []problem.Problem) {
	if _, ok := s.deployments.get(s.config.Namespace, DNSWriter); !ok {
		return &status.DNS{Mode: string(DNSOff), State: string(DNSIsOff)}, nil
	}
	m, _ := s.dns.get(s.config.Namespace, status.DNSConfigMap)
	if m.report == nil {
		return nil, nil
	}
	d := m.report.DNS
	d.Writer = m.report.Pod
	if !s.exists(d.Writer) {
		d.State, d.Message = string(DNSPending), fmt.Sprintf("pod %s, which kept it, is gone since, and no other has looked yet (Deployment %s)", d.Writer, DNSWriter)
		return &d, nil
	}
	return &d, dnsProblems(m.report.Problems)
}

// mostDNSProblems is how many problems a writer is believed: it has one for each object that it keeps.
const mostDNSProblems = 20

// dnsProblems are those that a writer of the cluster's DNS can have. The controllers make Events of them, with rights that
// it does not have itself.
func dnsProblems(in []status.Problem) []problem.Problem {
	kinds := []string{"ConfigMap", "Service", "DNS"}
	var out []problem.Problem
	for _, p := range in {
		if slices.Contains(kinds, p.Kind) && slices.Contains(dnsReasons(), p.Reason) && len(out) < mostDNSProblems {
			out = append(out, p.Problem())
		}
	}
	return out
}
