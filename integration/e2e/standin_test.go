package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	churnServices = 400
	churnPort     = 20000 // of the first service
	churnWorkers  = 16
)

// standin does to slices what the leader among the controllers does, and nothing else, so that the way mesh addresses
// are kept can be measured by itself. Every service has one slice.
type standin struct {
	client    kubernetes.Interface
	namespace string
	writes    atomic.Int64 // of slices
	current   []corev1.Pod // what the slices say
}

func newStandin(t *testing.T, e *env, namespace string, qps float32) *standin {
	t.Helper()
	c, err := clientcmd.BuildConfigFromFlags("", e.kubectl.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	c.QPS, c.Burst = qps, int(qps)
	client, err := kubernetes.NewForConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	return &standin{client: client, namespace: namespace}
}

func shadowName(i int) string { return "svc-" + strconv.Itoa(i) }

// create makes all Services and their slices and returns the Services' URLs.
func (s *standin) create(ctx context.Context) ([]string, error) {
	urls := make([]string, churnServices)
	err := each(func(i int) error {
		same := corev1.ServiceTrafficDistributionPreferSameNode
		svc, err := s.client.CoreV1().Services(s.namespace).Create(ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: shadowName(i)},
			Spec: corev1.ServiceSpec{
				TrafficDistribution: &same,
				Ports:               []corev1.ServicePort{{Name: "tcp-80", Port: 80, TargetPort: intstr.FromInt(churnPort + i)}},
			},
		}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		urls[i] = "http://" + net.JoinHostPort(svc.Spec.ClusterIP, "80")
		_, err = s.client.DiscoveryV1().EndpointSlices(s.namespace).Create(ctx, s.slice(i), metav1.CreateOptions{})
		return err
	})
	return urls, err
}

func (s *standin) delete(ctx context.Context) error {
	return each(func(i int) error {
		return errors.Join(
			s.client.CoreV1().Services(s.namespace).Delete(ctx, shadowName(i), metav1.DeleteOptions{}),
			s.client.DiscoveryV1().EndpointSlices(s.namespace).Delete(ctx, shadowName(i), metav1.DeleteOptions{}))
	})
}

func (s *standin) slice(i int) *discoveryv1.EndpointSlice {
	name, port, proto, ready := "tcp-80", int32(churnPort+i), corev1.ProtocolTCP, true
	sl := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: shadowName(i), Labels: map[string]string{discoveryv1.LabelServiceName: shadowName(i), discoveryv1.LabelManagedBy: "standin"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &proto}},
	}
	for _, p := range s.current {
		sl.Endpoints = append(sl.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{p.Status.PodIP}, NodeName: &p.Spec.NodeName, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
			Hints: &discoveryv1.EndpointHints{ForNodes: []discoveryv1.ForNode{{Name: p.Spec.NodeName}}},
		})
	}
	return sl
}

// write makes every slice say what current is.
func (s *standin) write(ctx context.Context) error {
	return each(func(i int) error {
		s.writes.Add(1)
		_, err := s.client.DiscoveryV1().EndpointSlices(s.namespace).Update(ctx, s.slice(i), metav1.UpdateOptions{})
		return err
	})
}

// each calls f for every service, several at once.
func each(f func(i int) error) error {
	var next atomic.Int64
	errs := make(chan error, churnWorkers)
	var wg sync.WaitGroup
	for range churnWorkers {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < churnServices; i = int(next.Add(1)) - 1 {
				if err := f(i); err != nil {
					errs <- fmt.Errorf("service %d: %w", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

func (s *standin) list(ctx context.Context) ([]corev1.Pod, error) {
	pods, err := s.client.CoreV1().Pods(s.namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=standin", ResourceVersion: "0"})
	if err != nil {
		return nil, err
	}
	return pods.Items, nil
}

// follow keeps the slices as the pods are, until the context ends. While it writes it does not look: latest wins.
func (s *standin) follow(ctx context.Context) error {
	for ctx.Err() == nil {
		pods, err := s.list(ctx)
		if err != nil {
			return ignoreEnd(ctx, err)
		}
		if want := s.wanted(pods); !sameAddresses(want, s.current) {
			s.current = want
			if err := s.write(ctx); err != nil {
				return ignoreEnd(ctx, err)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(pollEvery):
		}
	}
	return nil
}

func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// wanted are the pods that take new connections: ready and not on their way out.
func (s *standin) wanted(pods []corev1.Pod) []corev1.Pod {
	var want []corev1.Pod
	for _, p := range pods {
		if p.DeletionTimestamp == nil && podReady(p) {
			want = append(want, p)
		}
	}
	return want
}

func podReady(p corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func sameAddresses(a, b []corev1.Pod) bool {
	ips := func(ps []corev1.Pod) []string {
		var out []string
		for _, p := range ps {
			out = append(out, p.Status.PodIP)
		}
		slices.Sort(out)
		return out
	}
	return slices.Equal(ips(a), ips(b))
}
