package bypass

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// selectors finds those of many label selectors that match a pod without trying all of them: each is filed under one
// label that it demands.
type selectors[T any] struct {
	filed map[label][]selecting[T]
	rest  []selecting[T] // that demand no label by value
}

type label struct{ key, value string }

type selecting[T any] struct {
	labels.Selector
	what T
}

// add returns false for a selector that is none.
func (s *selectors[T]) add(selector *metav1.LabelSelector, what T) bool {
	x := selecting[T]{labels.ValidatedSetSelector(selector.MatchLabels), what}
	if len(selector.MatchExpressions) > 0 { // a hundredth of them, and a hundred times the cost
		compiled, err := metav1.LabelSelectorAsSelector(selector)
		if err != nil {
			return false
		}
		x.Selector = compiled
	}
	first := ""
	for key := range selector.MatchLabels {
		if first == "" || key < first {
			first = key
		}
	}
	if first == "" {
		s.rest = append(s.rest, x)
		return true
	}
	if s.filed == nil {
		s.filed = map[label][]selecting[T]{}
	}
	l := label{first, selector.MatchLabels[first]}
	s.filed[l] = append(s.filed[l], x)
	return true
}

// matching are those that match labels, in no particular order.
func (s *selectors[T]) matching(set map[string]string) []T {
	var out []T
	take := func(list []selecting[T]) {
		for _, x := range list {
			if x.Matches(labels.Set(set)) {
				out = append(out, x.what)
			}
		}
	}
	for key, value := range set {
		take(s.filed[label{key, value}])
	}
	take(s.rest)
	return out
}
