package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/tulle-mesh/tulle/internal/corefile"
	"github.com/tulle-mesh/tulle/internal/kube"
)

func dnsFlags(t *testing.T, args ...string) (*dnsWriter, error) {
	t.Helper()
	w := &dnsWriter{process: process{component: "dns", stderr: io.Discard}}
	parse(t, w.addFlags, args)
	return w, w.complete()
}

func TestDNSFlags(t *testing.T) {
	w, err := dnsFlags(t)
	if c := w.config; err != nil || c.Mode != kube.DNSManage || c.NoTrial || c.Restart || c.Zones[0] != "mesh" {
		t.Errorf("%+v, %v", w.config, err)
	}
	w, err = dnsFlags(t, "--zones=Mesh.,traefik.mesh", "--dns-mode=print", "--dns-config-maps=kube-system/coredns,ns/custom:Corefile", "--dns-trial=false", "--dns-restart")
	if err != nil {
		t.Fatal(err)
	}
	c := w.config
	if m := c.ConfigMaps; len(m) != 2 || m[0] != (corefile.Place{Namespace: "kube-system", Name: "coredns"}) || m[1] != (corefile.Place{Namespace: "ns", Name: "custom", Key: "Corefile"}) {
		t.Errorf("%+v", m)
	}
	if c.Mode != kube.DNSPrint || !c.NoTrial || !c.Restart || strings.Join(c.Zones, " ") != "mesh traefik.mesh" {
		t.Errorf("%+v", c)
	}
	for _, arg := range []string{"--dns-mode=off", "--dns-config-maps=coredns", "--zones=a_b", "--zones=", "--log-level=loud"} {
		name, _, _ := strings.Cut(arg, "=")
		if _, err := dnsFlags(t, arg); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", arg, err)
		}
	}
}

func TestDNSIsACommand(t *testing.T) {
	var out bytes.Buffer
	if err := newRoot([]string{"dns", "--help"}, &out, &out).ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "--dns-config-maps") || strings.Contains(out.String(), "--push-address") {
		t.Error(out.String())
	}
}

// TestDNSWriter runs the process and a controller: what the one finds is in the state that the other one writes.
func TestDNSWriter(t *testing.T) {
	client := api()
	for _, p := range []*corev1.Pod{pod("c-1", "controller", "10.0.0.8"), pod("d-1", "dns", "10.0.0.9")} {
		if _, err := client.CoreV1().Pods("tulle-system").Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.AppsV1().Deployments("tulle-system").Create(t.Context(), &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: kube.DNSWriter}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	d := startDNS(t, client)
	start(t, client, "c-1")
	eventually(t, "the controller says what the cluster's DNS lacks", func() bool {
		d := written(t, client).Leader.DNS
		return d != nil && d.Writer == "d-1" && d.Mode == "manage" && strings.Contains(d.Message, "Service tulle-system/tulle-dns")
	})
	if code, _ := get(t, "http://"+d.health.Addr().String()+"/readyz"); code != http.StatusOK {
		t.Errorf("readyz answers %d", code)
	}
	_, text := get(t, "http://"+d.metrics.Addr().String()+"/metrics")
	if !strings.Contains(text, "\ntulle_dns_writer_leader 1\n") || !strings.Contains(text, `tulle_build_info{component="dns"`) {
		t.Error(text)
	}
	documented := documentedMetrics(t, "")
	for name := range servedMetrics(t, d.metrics) {
		if !documented[name] {
			t.Errorf("%s is not in docs/metrics.md", name)
		}
	}
	if l, err := client.CoordinationV1().Leases("tulle-system").Get(t.Context(), "tulle-dns", metav1.GetOptions{}); err != nil || *l.Spec.HolderIdentity != "d-1" {
		t.Errorf("the Lease: %v, %v", l, err)
	}
}

func startDNS(t *testing.T, client *fake.Clientset) *doors {
	t.Helper()
	w, err := dnsFlags(t, "--pod-name=d-1", "--metrics-address=127.0.0.1:0", "--health-address=127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.log = slog.New(slog.DiscardHandler)
	w.config.Log = w.log
	w.clients = &kube.Clients{Read: client, DNS: client}
	d := &doors{}
	if err := open(t.Context(), w.listeners(d)...); err != nil {
		t.Fatal(err)
	}
	running(t, func(ctx context.Context) error { return w.serve(ctx, d) })
	return d
}
