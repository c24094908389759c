package kube

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/controller"
	"github.com/tulle-mesh/tulle/internal/status"
)

func controllerPod(name string) *corev1.Pod {
	p := proxyPod(name, "n1", "10.0.9.1")
	p.Labels["app.kubernetes.io/component"] = "controller"
	return p
}

func (c *cluster) recorded() status.Status {
	c.Helper()
	m, err := c.kube.CoreV1().ConfigMaps("tulle-system").Get(c.Context(), status.ConfigMap, metav1.GetOptions{})
	if err != nil {
		c.Fatal(err)
	}
	s, err := status.Decode(m.Data, m.BinaryData)
	if err != nil {
		c.Fatal(err)
	}
	return s
}

func TestEveryReplicaWritesItsOwnPart(t *testing.T) {
	c := newCluster(t, controllerPod("c-1"), controllerPod("c-2"))
	c.start()
	r := &Recorder{Client: c.kube, Namespace: "tulle-system", Source: c.source}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(r.RecordReplica(t.Context(), status.Replica{Pod: "c-1", Version: "v1"}))
	check(r.RecordReplica(t.Context(), status.Replica{Pod: "c-2", Version: "v2"}))
	check(r.RecordLeader(t.Context(), status.Leader{Pod: "c-2"}))
	s := c.recorded()
	if s.Leader.Pod != "c-2" || len(s.Replicas) != 2 || s.Replicas[1].Version != "v2" {
		t.Errorf("status: %+v", s)
	}
	// What people set stays.
	m, err := c.kube.CoreV1().ConfigMaps("tulle-system").Get(t.Context(), status.ConfigMap, metav1.GetOptions{})
	check(err)
	m.Data[status.BypassKey] = status.BypassOn
	_, err = c.kube.CoreV1().ConfigMaps("tulle-system").Update(t.Context(), m, metav1.UpdateOptions{})
	check(err)

	// A document that grows and shrinks is there once.
	big := status.Leader{Pod: "c-2"}
	for i := range 3000 {
		big.Problems = append(big.Problems, status.Problem{Name: fmt.Sprint("web-", i), Message: fmt.Sprint(i * i)})
	}
	check(r.RecordLeader(t.Context(), big))
	if s := c.recorded(); len(s.Leader.Problems) != 3000 || !s.Bypass {
		t.Errorf("%d problems, bypass %v", len(s.Leader.Problems), s.Bypass)
	}
	check(r.RecordLeader(t.Context(), status.Leader{Pod: "c-2"}))
	if s := c.recorded(); len(s.Leader.Problems) != 0 {
		t.Errorf("%d problems", len(s.Leader.Problems))
	}

	// What a replica that is gone wrote goes, too.
	check(c.kube.CoreV1().Pods("tulle-system").Delete(t.Context(), "c-1", metav1.DeleteOptions{}))
	c.eventually("c-1 is gone", func(s controller.Snapshot) bool {
		return len(s.Resources.Pods) == 1 && len(c.source.stateMap().keys) == 4
	})
	check(r.RecordLeader(t.Context(), status.Leader{Pod: "c-2"}))
	if s := c.recorded(); len(s.Replicas) != 1 || s.Replicas[0].Pod != "c-2" {
		t.Errorf("replicas: %+v", s.Replicas)
	}
}
