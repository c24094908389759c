package kube

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/tulle-mesh/tulle/internal/corefile"
)

const (
	simCorefile = ".:53 {\n    errors\n    kubernetes cluster.local in-addr.arpa ip6.arpa\n    forward . /etc/resolv.conf\n    reload\n}\n"
	simImports  = ".:53 {\n    errors\n    kubernetes cluster.local\n    reload\n    import /etc/coredns/custom/*.override\n}\nimport /etc/coredns/custom/*.server\n"
	simMeshIP   = "10.96.12.34"
	simTrialIP  = "10.9.9.9"
)

// sim is a cluster with a CoreDNS that behaves: it takes up what its ConfigMaps hold after a while, does not start with
// what it does not understand, and answers accordingly.
type sim struct {
	t      *testing.T
	client *fake.Clientset

	once     sync.Once
	mu       sync.Mutex
	loaded   map[string]string // by pod address: the configuration that it serves
	meshDown bool
	deaf     map[string]bool         // pods that answer nothing
	breaks   func(text string) error // what CoreDNS says to a configuration when it starts; nil = fine
	onReload func(address, text string)
	lag      time.Duration // until a pod takes a change up
	trials   int
	stuck    bool // trial pods stay pending
}

func newSim(t *testing.T, files map[string]string, objects ...runtime.Object) *sim {
	s := &sim{t: t, loaded: map[string]string{}, deaf: map[string]bool{}, lag: 45 * time.Second, breaks: func(string) error { return nil }}
	labels := map[string]string{"k8s-app": "kube-dns"}
	volumes := []corev1.Volume{{Name: "config", VolumeSource: configMapVolume("coredns", "Corefile")}}
	mounts := []corev1.VolumeMount{{Name: "config", MountPath: "/etc/coredns"}}
	if strings.Contains(files["Corefile"], "custom") {
		volumes = append(volumes, corev1.Volume{Name: "custom", VolumeSource: configMapVolume("coredns-custom", "")})
		mounts = append(mounts, corev1.VolumeMount{Name: "custom", MountPath: "/etc/coredns/custom"})
	}
	meta := func(ns, name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: ns, Name: name} }
	all := []runtime.Object{
		&appsv1.Deployment{ObjectMeta: meta("kube-system", "coredns"), Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
				DNSPolicy: corev1.DNSDefault, Volumes: volumes,
				Containers: []corev1.Container{{Name: "coredns", Image: "registry.k8s.io/coredns/coredns:v1", Args: []string{"-conf", "/etc/coredns/Corefile"}, VolumeMounts: mounts}},
			}},
		}},
		&corev1.Service{ObjectMeta: meta("kube-system", "kube-dns"), Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.10", Selector: labels}},
		&corev1.Service{ObjectMeta: meta("tulle-system", DNSService), Spec: corev1.ServiceSpec{ClusterIP: simMeshIP, ClusterIPs: []string{simMeshIP}}},
		&corev1.ConfigMap{ObjectMeta: meta("kube-system", "coredns"), Data: files},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system"}},
	}
	for name, ip := range map[string]string{"coredns-a": "10.1.0.2", "coredns-b": "10.1.0.3"} {
		p := &corev1.Pod{ObjectMeta: meta("kube-system", name), Spec: corev1.PodSpec{NodeName: "n1"}}
		p.Labels, p.Status = labels, corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip}
		all = append(all, p)
		s.loaded[ip] = files["Corefile"]
	}
	s.client = fake.NewClientset(append(all, objects...)...)
	return s
}

func configMapVolume(name, key string) corev1.VolumeSource {
	v := corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}}}
	if key != "" {
		v.ConfigMap.Items = []corev1.KeyToPath{{Key: key, Path: key}}
	}
	return v
}

func (s *sim) access() DNSAccess {
	return DNSAccess{Client: s.client, Namespace: "tulle-system", Nameservers: []netip.Addr{}, ConfigMaps: []corefile.Place{
		{Namespace: "kube-system", Name: "coredns"}, {Namespace: "kube-system", Name: "coredns-custom"},
	}}
}

// run starts the cluster and a manager in it. The manager ends when stop is called, all of it when the test ends.
func (s *sim) run(change func(*DNSConfig)) (m *DNSManager, stop func()) {
	config := DNSConfig{DNSAccess: s.access(), Zones: []string{"mesh"}, Ask: s.ask, Log: slog.New(slog.NewTextHandler(s.t.Output(), nil))}
	if change != nil {
		change(&config)
	}
	s.once.Do(s.live)
	m = NewDNSManager(config)
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := m.Run(ctx); err != nil {
			s.t.Errorf("Run: %v", err)
		}
	}()
	return m, func() { cancel(); <-done }
}

// live lets pods follow the ConfigMaps until the test ends.
func (s *sim) live() {
	ctx, cancel := context.WithCancel(s.t.Context())
	var g sync.WaitGroup
	g.Go(func() {
		for pause(ctx, 500*time.Millisecond) {
			s.kubelet(ctx)
		}
	})
	g.Go(func() {
		for next := time.Now(); pause(ctx, 500*time.Millisecond); {
			if lag := s.reloadLag(); time.Since(next) >= lag {
				s.reload(ctx)
				next = time.Now()
			}
		}
	})
	s.t.Cleanup(func() { cancel(); g.Wait() })
}

// text is all that CoreDNS reads.
func (s *sim) text(ctx context.Context) string {
	out := s.key("coredns", "Corefile")
	cm, err := s.client.CoreV1().ConfigMaps("kube-system").Get(ctx, "coredns-custom", metav1.GetOptions{})
	if err == nil {
		for _, text := range cm.Data {
			out += text
		}
	}
	return out
}

func (s *sim) reload(ctx context.Context) {
	text := s.text(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	for ip := range maps.Clone(s.loaded) {
		if !strings.Contains(s.loaded[ip], "reload") || s.loaded[ip] == text || s.breaks(text) != nil {
			continue
		}
		s.loaded[ip] = text
		if s.onReload != nil {
			s.onReload(ip, text)
		}
	}
}

// kubelet starts the pod of a trial.
func (s *sim) kubelet(ctx context.Context) {
	pods := s.client.CoreV1().Pods("tulle-system")
	p, err := pods.Get(ctx, trialName, metav1.GetOptions{})
	if err != nil || p.Status.Phase != "" {
		return
	}
	cm, err := s.client.CoreV1().ConfigMaps("tulle-system").Get(ctx, trialName, metav1.GetOptions{})
	if err != nil {
		s.t.Errorf("a trial without its ConfigMap: %v", err)
		return
	}
	var text string
	for _, v := range p.Spec.Volumes {
		if v.ConfigMap != nil {
			for _, i := range v.ConfigMap.Items {
				text += cm.Data[i.Key]
			}
		}
	}
	s.mu.Lock()
	s.trials++
	broken, stuck := s.breaks(text), s.stuck
	s.loaded[simTrialIP] = strings.ReplaceAll(text, "reload", "")
	s.mu.Unlock()
	p.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: simTrialIP}
	switch {
	case stuck:
		p.Status = corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{
			State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull"}},
		}}}
	case broken != nil:
		p.Status = corev1.PodStatus{Phase: corev1.PodFailed, ContainerStatuses: []corev1.ContainerStatus{{
			State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Message: "starting\n" + broken.Error() + "\n"}},
		}}}
	}
	if _, err := pods.UpdateStatus(ctx, p, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		s.t.Errorf("set the trial's status: %v", err)
	}
}

// ask answers like the servers of the cluster.
func (s *sim) ask(_ context.Context, server netip.AddrPort, name string, qtype uint16) (*dns.Msg, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := new(dns.Msg).SetQuestion(name, qtype)
	m.Response = true
	ip := server.Addr().String()
	text, known := s.loaded[ip]
	mesh := strings.HasSuffix(name, "._tulle.mesh.")
	switch {
	case ip == simMeshIP && !s.meshDown:
		m.Answer = append(m.Answer, txt(name))
	case !known || s.deaf[ip]:
		return nil, errors.New("i/o timeout")
	case mesh && !strings.Contains(text, "\nmesh:53 {"):
		m.Rcode = dns.RcodeNameError
	case mesh && s.meshDown:
		m.Rcode = dns.RcodeServerFailure
	case mesh:
		m.Answer = append(m.Answer, txt(name))
	case name == "kubernetes.default.svc.cluster.local." && qtype == dns.TypeA:
		m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: qtype, Class: dns.ClassINET}, A: []byte{10, 96, 0, 1}})
	}
	return m, nil
}

func txt(name string) dns.RR {
	return &dns.TXT{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{"tulle"}}
}

func (s *sim) key(name, key string) string {
	s.t.Helper()
	cm, err := s.client.CoreV1().ConfigMaps("kube-system").Get(s.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return ""
	}
	return cm.Data[key]
}

func (s *sim) set(name, key, text string) {
	s.t.Helper()
	maps := s.client.CoreV1().ConfigMaps("kube-system")
	cm, err := maps.Get(s.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	cm.Data[key] = text
	if _, err := maps.Update(s.t.Context(), cm, metav1.UpdateOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

// do changes the cluster's behaviour.
func (s *sim) do(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *sim) reloadLag() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lag
}

// tried counts the trials.
func (s *sim) tried() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trials
}

func (s *sim) has() bool { return corefile.Has(s.key("coredns", "Corefile"), "tulle-system") }

// await waits (in the bubble's time) until ok, and returns how long that took.
func (s *sim) await(what string, limit time.Duration, ok func() bool) time.Duration {
	s.t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > limit {
			s.t.Fatalf("%s: not within %s", what, limit)
		}
		if !pause(s.t.Context(), 100*time.Millisecond) {
			s.t.Fatal("the test is over")
		}
	}
	synctest.Wait()
	return time.Since(start)
}

func (s *sim) awaitPhase(m *DNSManager, phase DNSPhase, limit time.Duration) time.Duration {
	s.t.Helper()
	start := time.Now()
	for m.State().Phase != phase {
		if time.Since(start) > limit {
			s.t.Fatalf("phase %s: not within %s, but %s: %s", phase, limit, m.State().Phase, m.State().Message)
		}
		if !pause(s.t.Context(), 100*time.Millisecond) {
			s.t.Fatal("the test is over")
		}
	}
	return time.Since(start)
}

func mustAddrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}
