package check

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/firsthop"
)

const (
	// firstHopService leads to the proxies as mesh addresses do.
	firstHopService = "tulle-first-hop"
	adminPort       = 15000

	askersAtOnce = 16
	askerLimit   = 20 * time.Second
	// patience is longer than service proxies take to follow a change.
	patience = 3 * time.Second
)

// firstHop has pods of the mesh call the proxies as applications do, and says whether the calls stay on their node and
// show their source address. What the proxies have counted is added: it is about real callers, and about the past.
func (m *mesh) firstHop(ctx context.Context) ([]Finding, error) {
	if len(m.pods) == 0 {
		return nil, nil // as the check of the proxies says
	}
	out, err := m.probe(ctx)
	if err == nil && slices.ContainsFunc(out, func(f Finding) bool { return f.Level == Failed }) && m.pause(ctx) {
		out, err = m.probe(ctx)
	}
	if err != nil {
		return nil, err
	}
	counted, err := m.counted(ctx)
	return append(out, counted...), err
}

// pause waits for what may be passing, such as the node of a proxy that has just become ready.
func (m *mesh) pause(ctx context.Context) bool {
	t := time.NewTimer(m.Patience)
	if m.Patience == 0 {
		t.Reset(patience)
	}
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (m *mesh) probe(ctx context.Context) ([]Finding, error) {
	svc, err := m.Cluster.Kube.CoreV1().Services(m.Namespace).Get(ctx, firstHopService, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return []Finding{{Level: Note, Message: "there is no Service " + firstHopService + " to ask by: whether calls stay on the client's node isn't known", Next: "`tulle upgrade` adds it"}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get Service %s: %w", firstHopService, err)
	}
	pods, err := m.Cluster.Kube.CoreV1().Pods(m.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=tulle,app.kubernetes.io/component in (controller,proxy)"})
	if err != nil {
		return nil, fmt.Errorf("list the mesh's pods: %w", err)
	}
	h := newHops(pods.Items, m.settings["first-hop"] == "local")
	m.ask(ctx, h.askers, firsthop.URL(slices.Concat(m.settings.List("zones"), []string{"mesh"})[0], serversOf(svc)...))
	return h.findings(), nil
}

// serversOf are the Service's addresses with its port, of each family the cluster has.
func serversOf(svc *corev1.Service) []netip.AddrPort {
	var out []netip.AddrPort
	for _, text := range svc.Spec.ClusterIPs {
		if a, err := netip.ParseAddr(text); err == nil && len(svc.Spec.Ports) > 0 {
			out = append(out, netip.AddrPortFrom(a, uint16(svc.Spec.Ports[0].Port)))
		}
	}
	return out
}

// ask has all askers ask, some at a time.
func (m *mesh) ask(ctx context.Context, askers []asker, url string) {
	var g errgroup.Group
	g.SetLimit(askersAtOnce)
	for i := range askers {
		g.Go(func() error {
			a := &askers[i]
			ctx, cancel := context.WithTimeout(ctx, askerLimit)
			defer cancel()
			var report firsthop.Report
			data, err := m.Cluster.PodGet(ctx, m.Namespace, a.pod, adminPort, url)
			if err == nil {
				err = json.Unmarshal(data, &report)
			}
			a.answers, a.err = report.Answers, err
			return nil
		})
	}
	g.Wait() //nolint:errcheck // the askers keep their errors
}
