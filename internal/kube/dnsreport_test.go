package kube

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/controller"
	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/status"
)

// records runs what writes down what a manager knows.
func (s *sim) records(m *DNSManager) {
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	r := DNSRecorder{DNSAccess: s.access(), Manager: m, Pod: "d-1", Version: "v1", Log: slog.New(slog.DiscardHandler)}
	go func() { done <- r.Run(ctx) }()
	s.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	})
}

func (s *sim) report() *status.DNSReport {
	cm, err := s.client.CoreV1().ConfigMaps("tulle-system").Get(s.t.Context(), dnsConfigMap, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	m, _ := keepDNSReport(cm)
	return m.report
}

func (s *sim) reports() int {
	n := 0
	for _, a := range s.client.Actions() {
		if p, ok := a.(interface{ GetPatch() []byte }); ok && strings.Contains(string(p.GetPatch()), `"`+status.DNSKey+`"`) {
			n++
		}
	}
	return n
}

func TestDNSIsWrittenDown(t *testing.T) {
	bubble(t, plainFiles(), func(t *testing.T, s *sim) {
		m, _ := s.run(nil)
		s.records(m)
		s.awaitPhase(m, DNSServed, 2*time.Minute)
		s.await("the state", time.Second, func() bool { return s.report() != nil && s.report().DNS.State == "ok" })
		if r := s.report(); r.Pod != "d-1" || r.Version != "v1" || r.DNS.Writer != "d-1" || r.DNS.Object != "ConfigMap kube-system/coredns" || len(r.Problems) != 0 {
			t.Errorf("%+v", r)
		}
		if h := s.access().readRecord(t.Context(), slog.New(slog.DiscardHandler)).of("ConfigMap kube-system/coredns"); !h.Verified {
			t.Errorf("the record beside it: %+v", h)
		}
		before := s.reports()
		pause(t.Context(), 4*time.Minute)
		if n := s.reports() - before; n > 1 {
			t.Errorf("written %d times within 4 minutes in which nothing changed", n)
		}
		// Whoever deletes it, or empties the record, does not make the state unknown for long.
		if err := s.client.CoreV1().ConfigMaps("tulle-system").Delete(t.Context(), dnsConfigMap, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		s.await("the state again", 6*time.Minute, func() bool { return s.report() != nil })
		s.set("coredns", "Corefile", "mesh:53 {\n}\n"+simCorefile)
		s.await("the problem", time.Minute, func() bool { return len(s.report().Problems) == 1 })
		if p := s.report().Problems[0]; p.Reason != problem.DNSRefused || p.Kind != "ConfigMap" || p.Name != "coredns" || p.Namespace != "kube-system" {
			t.Errorf("%+v", p)
		}
	})
}

// A restart of the process is no reason to believe that nothing is wrong, or that all is: what was written stays until the
// new one has looked.
func TestDNSReportStaysUntilTheNextLook(t *testing.T) {
	bubble(t, plainFiles(), func(t *testing.T, s *sim) {
		m := NewDNSManager(DNSConfig{DNSAccess: s.access()})
		s.records(m)
		m.publish(DNSState{Mode: DNSManage, Zones: []string{"mesh"}})
		pause(t.Context(), 10*time.Minute)
		if s.report() != nil {
			t.Errorf("nobody has looked, and it says %+v", s.report())
		}
	})
}

func dnsDeployment() *appsv1.Deployment {
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "tulle-system", Name: DNSWriter}}
}

// write writes down a report as the process does.
func (c *cluster) write(r status.DNSReport) {
	c.Helper()
	a := DNSAccess{Client: c.kube, Namespace: "tulle-system"}
	data, _, err := status.Encode(r)
	if err == nil {
		err = a.setKey(c.Context(), status.DNSKey, string(data))
	}
	if err != nil {
		c.Fatal(err)
	}
}

func TestDNSIsReadWhereItIsWrittenDown(t *testing.T) {
	writer := proxyPod("d-1", "n1", "10.0.9.2")
	writer.Labels[component] = "dns"
	c := newCluster(t, writer)
	c.start()
	if d, p := c.source.DNS(); d == nil || d.State != "off" || len(p) != 0 {
		t.Errorf("without a Deployment: %+v, %v", d, p)
	}
	if _, err := c.kube.AppsV1().Deployments("tulle-system").Create(t.Context(), dnsDeployment(), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// Each of these is waited for by what wakes the controllers.
	c.eventually("nobody has looked", func(controller.Snapshot) bool { d, _ := c.source.DNS(); return d == nil })

	wrong := status.Problem{APIVersion: "v1", Kind: "ConfigMap", Namespace: "kube-system", Name: "coredns", Reason: problem.DNSFighting, Message: strings.Repeat("x", 900)}
	r := status.DNSReport{Pod: "d-1", DNS: status.DNS{Mode: "manage", State: "fighting", Zones: []string{"mesh"}}, Problems: []status.Problem{
		wrong,
		{APIVersion: "v1", Kind: "Pod", Namespace: "shop", Name: "web", Reason: problem.DNSFighting, Message: "not what it keeps"},
		{APIVersion: "v1", Kind: "ConfigMap", Namespace: "shop", Name: "web", Reason: problem.InternalError, Message: "not its to say"},
	}}
	c.write(r)
	c.eventually("what was written", func(controller.Snapshot) bool { d, _ := c.source.DNS(); return d != nil && d.State == "fighting" })
	if d, p := c.source.DNS(); d.Writer != "d-1" || len(p) != 1 || p[0] != wrong.Problem() {
		t.Errorf("%+v\n%v", d, p)
	}
	if err := c.kube.CoreV1().Pods("tulle-system").Delete(t.Context(), "d-1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("it is gone", func(controller.Snapshot) bool { d, _ := c.source.DNS(); return d.State == "pending" })
	if d, p := c.source.DNS(); !strings.Contains(d.Message, "d-1") || d.Mode != "manage" || len(p) != 0 {
		t.Errorf("%+v\n%v", d, p)
	}
}

// A document that is written anew and says the same wakes nobody.
func TestDNSReportOfTheSameIsQuiet(t *testing.T) {
	a := status.DNSReport{Pod: "d-1", Updated: time.Unix(1, 0), DNS: status.DNS{State: "ok", Zones: []string{"mesh"}}}
	b := a
	b.Updated = time.Unix(2, 0)
	c := b
	c.Pod = "d-2"
	if !(dnsMap{report: &a}).same(dnsMap{report: &b}) || (dnsMap{report: &a}).same(dnsMap{report: &c}) || (dnsMap{report: &a}).same(dnsMap{}) || !(dnsMap{}).same(dnsMap{}) {
		t.Error("wrong")
	}
}

func TestDNSReportThatCannotBeReadSaysNothing(t *testing.T) {
	c := newCluster(t, dnsDeployment())
	c.start()
	a := DNSAccess{Client: c.kube, Namespace: "tulle-system"}
	if err := a.setKey(t.Context(), status.DNSKey, "{"); err != nil {
		t.Fatal(err)
	}
	c.eventually("it was read", func(controller.Snapshot) bool { _, ok := c.source.dns.get("tulle-system", dnsConfigMap); return ok })
	if d, p := c.source.DNS(); d != nil || len(p) != 0 {
		t.Errorf("%+v %v", d, p)
	}
}
