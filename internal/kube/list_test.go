package kube

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func pods(changes *int) split[*corev1.Pod] {
	count := func() { *changes++ }
	return splitOf("tulle-system", keepMeshPod, equal, count, keepPod, equal, count)
}

func namedPod(namespace, name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
}

func names(pods []*corev1.Pod) (out []string) {
	for _, p := range pods {
		out = append(out, p.Namespace+"/"+p.Name)
	}
	return out
}

// TestListsAreSortedAndOldOnesStay changes lists at random and compares with a map.
func TestListsAreSortedAndOldOnesStay(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	changes := 0
	s := pods(&changes)
	have := map[string]bool{}
	type lent struct {
		pods []*corev1.Pod
		want []string
	}
	var before []lent
	for i := range 2000 {
		p := namedPod([]string{"a", "tulle-system", "z"}[r.IntN(3)], fmt.Sprint("p", r.IntN(30)))
		key := p.Namespace + "/" + p.Name
		var err error
		if r.IntN(3) == 0 {
			err = s.Delete(p)
			delete(have, key)
		} else {
			err = s.Add(p)
			have[key] = true
		}
		if err != nil {
			t.Fatal(err)
		}
		if i%7 == 0 {
			all := s.all()
			before = append(before, lent{all, names(all)}, lent{s.mesh.all(), names(s.mesh.all())})
		}
	}
	if len(s.all()) != len(have) || !slices.IsSortedFunc(s.all(), func(a, b *corev1.Pod) int { return compare(a, b) }) {
		t.Errorf("%d pods, want %d: %v", len(s.all()), len(have), names(s.all()))
	}
	for i, l := range before {
		if !slices.Equal(names(l.pods), l.want) {
			t.Fatalf("list %d changed after it was handed out", i)
		}
	}
}

func TestOnlyWhatIsKeptCountsAsAChange(t *testing.T) {
	changes := 0
	s := pods(&changes)
	user, proxy := namedPod("shop", "web"), namedPod("tulle-system", "p")
	count := func(what string, want int, do func() error) {
		t.Helper()
		before := changes
		if err := do(); err != nil {
			t.Fatal(err)
		}
		if changes-before != want {
			t.Errorf("%s: %d changes, want %d", what, changes-before, want)
		}
	}
	count("two pods", 2, func() error { _ = s.Add(user); return s.Add(proxy) })
	ready := func(p *corev1.Pod) *corev1.Pod {
		p = p.DeepCopy()
		p.ResourceVersion = "2"
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		return p
	}
	count("a user's pod is ready: its slice says so, too", 0, func() error { return s.Update(ready(user)) })
	count("a proxy is ready", 1, func() error { return s.Update(ready(proxy)) })
	user.Status.PodIP = "10.0.0.1"
	count("a user's pod has an address", 1, func() error { return s.Update(user) })
	count("a list that says the same", 2, func() error { return s.Replace([]any{user, ready(proxy)}, "3") }) // the first one always counts
	count("a list that says the same", 0, func() error { return s.Replace([]any{ready(proxy), user}, "3") })
	count("a list without one", 1, func() error { return s.Replace([]any{user}, "4") })
	count("a pod that nobody knows goes", 0, func() error { return s.Delete(namedPod("shop", "x")) })
}

func TestNextTellsOfAChange(t *testing.T) {
	changes := 0
	s := pods(&changes)
	next := s.mesh.next()
	_ = s.Add(namedPod("shop", "web"))
	select {
	case <-next:
		t.Error("another namespace counts")
	default:
	}
	_ = s.Add(namedPod("tulle-system", "p"))
	<-next
}

func BenchmarkSnapshot(b *testing.B) {
	changes := 0
	s := pods(&changes)
	var objs []any
	for i := range 20000 {
		objs = append(objs, namedPod(fmt.Sprint("ns", i%100), fmt.Sprint("p", i)))
	}
	if err := s.Replace(objs, "1"); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	p := namedPod("ns7", "new")
	for b.Loop() {
		_ = s.Add(p)
		if len(s.all()) != 20001 {
			b.Fatal("a pod is missing")
		}
		_ = s.Delete(p)
	}
}
