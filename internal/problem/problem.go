// Package problem holds the mesh's findings about users' objects: data, not errors. A Problem never stops anything
// else; it becomes an Event on its object, a metric and a line of `tulle check`.
package problem

import "cmp"

// Ref names a Kubernetes object.
type Ref struct {
	APIVersion string // e.g. "split.smi-spec.io/v1alpha4"; "v1" for core kinds
	Kind       string
	Namespace  string
	Name       string
	UID        string // may be empty
}

// Problem is one finding about one object.
type Problem struct {
	Object  Ref
	Reason  Reason
	Message string
}

// String is one line: "TrafficSplit shop/web: InvalidWeight: ...".
func (p Problem) String() string {
	name := p.Object.Name
	if p.Object.Namespace != "" {
		name = p.Object.Namespace + "/" + name
	}
	return p.Object.Kind + " " + name + ": " + string(p.Reason) + ": " + p.Message
}

// Reason is a constant in CamelCase, listed in docs/problems.md.
type Reason string

// Compare orders Problems by object, reason and message; 0 means that they are equal.
func (p Problem) Compare(o Problem) int {
	return cmp.Or(
		cmp.Compare(p.Object.Kind, o.Object.Kind),
		cmp.Compare(p.Object.Namespace, o.Object.Namespace),
		cmp.Compare(p.Object.Name, o.Object.Name),
		cmp.Compare(p.Reason, o.Reason),
		cmp.Compare(p.Message, o.Message),
		cmp.Compare(p.Object.APIVersion, o.Object.APIVersion),
		cmp.Compare(p.Object.UID, o.Object.UID),
	)
}
