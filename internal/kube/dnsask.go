package kube

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/tulle-mesh/tulle/internal/corefile"
)

// Asker asks a DNS server one question.
type Asker func(ctx context.Context, server netip.AddrPort, name string, qtype uint16) (*dns.Msg, error)

const (
	askTimeout = 2 * time.Second
	askTries   = 2
	askers     = 16 // pods that are asked at a time

	serviceAsks = 6 // of one Service, in a row

	// Every proxy that has a config answers TXT "tulle" for _tulle.<zone>, with any label before it: names that no cache
	// knows.
	probeLabel = "_tulle"
	probeText  = "tulle"
)

// AskUDP asks by UDP.
func AskUDP(ctx context.Context, server netip.AddrPort, name string, qtype uint16) (*dns.Msg, error) {
	m := new(dns.Msg).SetQuestion(name, qtype)
	c := dns.Client{Net: "udp", Timeout: askTimeout}
	r, _, err := c.ExchangeContext(ctx, m, server.String())
	return r, err
}

// probe returns nil if the server answers for the zone from the mesh DNS.
func (a Asker) probe(ctx context.Context, server netip.AddrPort, zone string) error {
	name := fmt.Sprintf("%s.%s.%s.", rand.Text()[:12], probeLabel, zone)
	r, err := a.ask(ctx, server, name, dns.TypeTXT)
	if err != nil {
		return err
	}
	for _, rr := range r.Answer {
		if txt, ok := rr.(*dns.TXT); ok && slices.Contains(txt.Txt, probeText) {
			return nil
		}
	}
	return &answerError{dns.RcodeToString[r.Rcode]}
}

// answerError is an answer that is not the mesh's.
type answerError struct{ rcode string }

func (e *answerError) Error() string { return e.rcode + " instead of an answer of the mesh DNS" }

// cluster returns nil if the server knows the cluster's own name.
func (a Asker) cluster(ctx context.Context, server netip.AddrPort, domain string) error {
	var all error
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
		r, err := a.ask(ctx, server, "kubernetes.default.svc."+domain+".", qtype)
		switch {
		case err != nil:
			return err
		case r.Rcode != dns.RcodeSuccess:
			all = fmt.Errorf("%s for kubernetes.default.svc.%s", dns.RcodeToString[r.Rcode], domain)
		case len(r.Answer) > 0:
			return nil
		}
	}
	if all == nil {
		all = fmt.Errorf("no address for kubernetes.default.svc.%s", domain)
	}
	return all
}

func (a Asker) ask(ctx context.Context, server netip.AddrPort, name string, qtype uint16) (r *dns.Msg, err error) {
	for range askTries {
		if r, err = a(ctx, server, name, qtype); err == nil || ctx.Err() != nil {
			return r, err
		}
	}
	return nil, err
}

// meshAnswers returns nil if the mesh DNS itself answers for all zones.
func (m *DNSManager) meshAnswers(ctx context.Context, servers []netip.Addr) error {
	for _, zone := range m.config.Zones {
		if err := m.config.Ask.probe(ctx, netip.AddrPortFrom(servers[0], 53), zone); err != nil {
			return fmt.Errorf("the mesh DNS (Service %s, %s) does not answer for %s yet: %w", DNSService, servers[0], zone, err)
		}
	}
	return nil
}

// asked is a pod of the cluster's DNS.
type asked struct {
	DNSPod
	pod    *corev1.Pod
	server netip.AddrPort
}

// pods lists the pods behind a target that can be asked. A node cache's pods answer on their nodes only.
func (a DNSAccess) pods(ctx context.Context, t corefile.Target) ([]*corev1.Pod, error) {
	w := t.Workload
	if len(w.Selector) == 0 {
		return nil, nil
	}
	list, err := a.Client.CoreV1().Pods(w.Namespace).List(ctx, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(w.Selector).String()})
	if err != nil {
		return nil, fmt.Errorf("list pods of %s %s/%s: %w", w.Kind, w.Namespace, w.Name, err)
	}
	var out []*corev1.Pod
	for i := range list.Items {
		if p := &list.Items[i]; p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			out = append(out, p)
		}
	}
	return out, nil
}

// askAll asks every pod of a target for the mesh's zones and the cluster's own name.
func (m *DNSManager) askAll(ctx context.Context, t corefile.Target) ([]asked, error) {
	pods, err := m.config.pods(ctx, t)
	if err != nil {
		return nil, err
	}
	var out []asked
	for _, p := range pods {
		ip, err := netip.ParseAddr(p.Status.PodIP)
		if err != nil || t.Kind == corefile.NodeCache {
			continue
		}
		out = append(out, asked{pod: p, server: netip.AddrPortFrom(ip, uint16(t.Port)), DNSPod: DNSPod{Name: p.Name, Address: ip.String()}})
	}
	slots := make(chan struct{}, askers)
	var g sync.WaitGroup
	for i := range out {
		g.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			m.askPod(ctx, &out[i])
		})
	}
	g.Wait()
	if !slices.ContainsFunc(out, func(p asked) bool { return p.Cluster }) {
		if s, ok := m.askService(ctx, t); ok {
			return []asked{s}, nil
		}
	}
	return out, nil
}

// askService stands in where pods cannot be asked one by one: for a node's cache, and where a NetworkPolicy keeps the
// controller from them. The Service is asked several times, so that several pods are.
func (m *DNSManager) askService(ctx context.Context, t corefile.Target) (asked, bool) {
	ip, err := netip.ParseAddr(t.Service)
	if err != nil {
		return asked{}, false
	}
	s := asked{server: netip.AddrPortFrom(ip, 53), DNSPod: DNSPod{Name: "Service", Address: ip.String()}}
	for range serviceAsks {
		if m.askPod(ctx, &s); !s.Cluster || !s.Serves {
			break
		}
	}
	return s, s.Cluster
}

func (m *DNSManager) askPod(ctx context.Context, p *asked) {
	cluster := m.config.Ask.cluster(ctx, p.server, m.config.ClusterDomain)
	p.Cluster, p.Serves = cluster == nil, true
	for _, zone := range m.config.Zones {
		if err := m.config.Ask.probe(ctx, p.server, zone); err != nil {
			p.Serves = false
			cluster = errors.Join(cluster, fmt.Errorf("zone %s: %w", zone, err))
		}
	}
	if cluster != nil {
		p.Message = strings.ReplaceAll(cluster.Error(), "\n", ", ")
	}
}

func states(pods []asked) []DNSPod {
	var out []DNSPod
	for _, p := range pods {
		out = append(out, p.DNSPod)
	}
	slices.SortFunc(out, func(a, b DNSPod) int { return strings.Compare(a.Name, b.Name) })
	return out
}
