package kube

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"

	"github.com/tulle-mesh/tulle/internal/corefile"
	"github.com/tulle-mesh/tulle/internal/status"
)

func TestDNSCustomComesAndGoes(t *testing.T) {
	bubble(t, map[string]string{"Corefile": simImports, "NodeHosts": "10.0.0.1 n1\n"}, func(t *testing.T, s *sim) {
		m, stop := s.run(nil)
		s.awaitPhase(m, DNSServed, 2*time.Minute)
		maps := s.client.CoreV1().ConfigMaps("kube-system")
		if cm, err := maps.Get(t.Context(), "coredns-custom", metav1.GetOptions{}); err != nil || !corefile.Has(cm.Data["tulle.server"], "tulle-system") {
			t.Fatalf("%v, %v", cm, err)
		}
		if s.key("coredns", "Corefile") != simImports {
			t.Error("the Corefile itself was changed")
		}
		stop()
		if notes, err := (DNSRestore{DNSAccess: s.access()}).Run(t.Context()); err != nil || len(notes) > 0 {
			t.Errorf("restore: %v, %v", notes, err)
		}
		if _, err := maps.Get(t.Context(), "coredns-custom", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("coredns-custom is left: %v", err)
		}
		if _, err := s.client.CoreV1().ConfigMaps("tulle-system").Get(t.Context(), dnsConfigMap, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("the record is left: %v", err)
		}
	})
}

func TestDNSRestoreWaitsForThePods(t *testing.T) {
	bubble(t, plainFiles(), func(t *testing.T, s *sim) {
		m, stop := s.run(nil)
		s.awaitPhase(m, DNSServed, 2*time.Minute)
		stop()
		r := DNSRestore{DNSAccess: s.access(), Zones: []string{"mesh"}, Dial: s.dial}
		notes, err := r.Run(t.Context())
		if err != nil || len(notes) != 0 || s.key("coredns", "Corefile") != simCorefile {
			t.Errorf("restore: %v, %v\n%s", notes, err, s.key("coredns", "Corefile"))
		}
		s.do(func() {
			if s.loaded["10.1.0.2"] != simCorefile || s.loaded["10.1.0.3"] != simCorefile {
				t.Error("it did not wait until the pods had taken it up")
			}
		})
		if notes, err := r.Run(t.Context()); err != nil || len(notes) != 0 {
			t.Errorf("a second time: %v, %v", notes, err)
		}
	})
}

// dial is port forwarding to a pod of the sim.
func (s *sim) dial(ctx context.Context, namespace, pod string, port int) (io.ReadWriteCloser, error) {
	p, err := s.client.CoreV1().Pods(namespace).Get(ctx, pod, metav1.GetOptions{})
	if err != nil || port != 53 {
		return nil, errors.Join(err, errors.New("connection refused"))
	}
	here, there := net.Pipe()
	go func() {
		defer there.Close()
		c := dns.Conn{Conn: there}
		if q, err := c.ReadMsg(); err == nil {
			if r, err := s.ask(ctx, netip.AddrPortFrom(netip.MustParseAddr(p.Status.PodIP), 53), q.Question[0].Name, q.Question[0].Qtype); err == nil {
				r.Id = q.Id
				_ = c.WriteMsg(r) // the asker may be gone
			}
		}
	}()
	return here, nil
}

func TestDNSRestoreOfWhatIsNotRecognisedAnyMore(t *testing.T) {
	s := newSim(t, plainFiles())
	b := corefile.Block{Mesh: "tulle-system", Zones: []string{"mesh"}, Servers: mustAddrs(simMeshIP)}
	text, err := b.Patch(simCorefile)
	if err != nil {
		t.Fatal(err)
	}
	s.set("coredns", "Corefile", text)
	if err := s.client.AppsV1().Deployments("kube-system").Delete(t.Context(), "coredns", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := (DNSRestore{DNSAccess: s.access()}).Run(t.Context()); err != nil {
		t.Error(err)
	}
	if got := s.key("coredns", "Corefile"); got != simCorefile {
		t.Errorf("-want +got:\n%s", cmp.Diff(simCorefile, got))
	}
}

func TestDNSOpenShift(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		obj := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "operator.openshift.io/v1", "kind": "DNS", "metadata": map[string]any{"name": "default"},
			"spec": map[string]any{"logLevel": "Normal"},
		}}
		before := obj.DeepCopy()
		operator := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{openShiftDNS: "DNSList"}, obj)
		s := newSim(t, plainFiles())
		access := s.access()
		access.Dynamic = operator
		m, stop := s.run(func(c *DNSConfig) { c.DNSAccess = access })
		read := func() map[string]any {
			u, err := operator.Resource(openShiftDNS).Get(t.Context(), "default", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return u.Object
		}
		s.await("servers", time.Minute, func() bool {
			servers, _, _ := unstructured.NestedSlice(read(), "spec", "servers")
			return len(servers) == 1
		})
		s.awaitPhase(m, DNSPending, time.Minute)
		if s.has() || s.tried() > 0 {
			t.Error("on OpenShift the operator writes the Corefile")
		}
		stop()
		if _, err := (DNSRestore{DNSAccess: access}).Run(t.Context()); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(before.Object, read()); diff != "" {
			t.Errorf("after restoring (-before +after):\n%s", diff)
		}
	})
}

// TestDNSNodeCache has a second target, whose pods answer on their own nodes only: the Service is asked instead.
func TestDNSNodeCache(t *testing.T) {
	bubble(t, plainFiles(), func(t *testing.T, s *sim) {
		d, _ := s.client.AppsV1().Deployments("kube-system").Get(t.Context(), "coredns", metav1.GetOptions{})
		cache := nodeCache(d)
		if _, err := s.client.AppsV1().DaemonSets("kube-system").Create(t.Context(), cache, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		const text = "cluster.local:53 {\n    bind 169.254.20.10\n    forward . __PILLAR__CLUSTER__DNS__\n}\n.:53 {\n    bind 169.254.20.10\n    forward . __PILLAR__UPSTREAM__SERVERS__\n}\n"
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "node-local-dns"}, Data: map[string]string{"Corefile": text}}
		if _, err := s.client.CoreV1().ConfigMaps("kube-system").Create(t.Context(), cm, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		s.do(func() { s.loaded["10.96.0.10"] = simCorefile })
		m, _ := s.run(func(c *DNSConfig) {
			c.ConfigMaps = append(c.ConfigMaps, corefile.Place{Namespace: "kube-system", Name: "node-local-dns"})
			c.Nameservers = mustAddrs("169.254.20.10")
		})
		s.awaitPhase(m, DNSServed, 3*time.Minute)
		got := s.key("node-local-dns", "Corefile")
		if !strings.Contains(got, "mesh:53 {\n    bind 169.254.20.10\n    errors\n    forward . "+simMeshIP) || strings.Contains(got, "servfail") || s.tried() != 1 {
			t.Errorf("%d trials\n%s", s.tried(), got)
		}
		if len(m.State().Targets) != 2 || !s.has() {
			t.Errorf("targets: %+v", m.State().Targets)
		}
	})
}

func TestDNSOtherNameserver(t *testing.T) {
	bubble(t, plainFiles(), func(t *testing.T, s *sim) {
		m, _ := s.run(func(c *DNSConfig) { c.Nameservers = mustAddrs("10.50.0.1") })
		s.awaitPhase(m, DNSServed, 2*time.Minute)
		s.do(func() { s.loaded["10.50.0.1"] = strings.ReplaceAll(simCorefile, "reload", "") })
		s.awaitPhase(m, DNSNotServed, time.Minute)
		if msg := m.State().Message; !strings.Contains(msg, "pods ask 10.50.0.1") {
			t.Error(msg)
		}
	})
}

func TestDNSPodsBehindAWall(t *testing.T) {
	bubble(t, plainFiles(), func(t *testing.T, s *sim) {
		s.deaf["10.1.0.2"], s.deaf["10.1.0.3"] = true, true // to the controller
		s.do(func() { s.loaded["10.96.0.10"] = simCorefile })
		m, _ := s.run(nil)
		s.awaitPhase(m, DNSServed, 2*time.Minute)
		if pods := m.State().Targets[0].Pods; len(pods) != 1 || pods[0].Name != "Service" {
			t.Errorf("%+v", pods)
		}
	})
}

func TestAskUDP(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		r := new(dns.Msg).SetReply(q)
		switch name := q.Question[0].Name; {
		case asked.Add(1) == 1:
			return // lost; asked again
		case strings.HasSuffix(name, "._tulle.mesh."):
			r.Answer = append(r.Answer, txt(name))
		case strings.HasPrefix(name, "kubernetes.") && q.Question[0].Qtype == dns.TypeAAAA:
			r.Answer = append(r.Answer, &dns.AAAA{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeAAAA, Class: dns.ClassINET}, AAAA: net.ParseIP("fd00::1")})
		case !strings.HasPrefix(name, "kubernetes."):
			r.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(r) // a lost answer is asked for again
	})}
	go func() { _ = server.ActivateAndServe() }() // ends with Shutdown
	defer func() { _ = server.Shutdown() }()
	to := netip.MustParseAddrPort(conn.LocalAddr().String())
	if err := Asker(AskUDP).probe(t.Context(), to, "mesh"); err != nil {
		t.Errorf("probe: %v", err)
	}
	if err := Asker(AskUDP).cluster(t.Context(), to, "cluster.local"); err != nil {
		t.Errorf("cluster on IPv6: %v", err)
	}
	if _, ok := errors.AsType[*answerError](Asker(AskUDP).probe(t.Context(), to, "other")); !ok {
		t.Error("NXDOMAIN is an answer, and not the mesh's")
	}
}

func TestBypass(t *testing.T) {
	s := newSim(t, plainFiles())
	read := func() bool {
		on, err := Bypass(t.Context(), s.client, "tulle-system")
		if err != nil {
			t.Fatal(err)
		}
		return on
	}
	for i, on := range []bool{false, true, true, false, false} {
		if err := SetBypass(t.Context(), s.client, "tulle-system", on); err != nil || read() != on {
			t.Errorf("step %d: bypass %v, %v", i, read(), err)
		}
	}
	cm, err := s.client.CoreV1().ConfigMaps("tulle-system").Get(t.Context(), status.ConfigMap, metav1.GetOptions{})
	if err != nil || len(cm.Data) != 0 {
		t.Errorf("off leaves nothing behind: %v, %v", cm, err)
	}
}
