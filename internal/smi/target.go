package smi

import (
	"cmp"
	"fmt"

	accessv1alpha1 "github.com/servicemeshinterface/smi-sdk-go/pkg/apis/access/v1alpha1"
	accessv1alpha2 "github.com/servicemeshinterface/smi-sdk-go/pkg/apis/access/v1alpha2"

	"github.com/tulle-mesh/tulle/internal/problem"
)

// decodeTarget brings the three versions to v1alpha2's shape: v1alpha1 has no spec and calls the rules specs. A port
// limits access, so it counts in v1alpha3, too, which does not have it, where somebody wrote it.
func decodeTarget(d decoding) (any, []problem.Problem) {
	body := d.body(d.version == "v1alpha1", "destination")
	spec, err := convert[accessv1alpha2.TrafficTargetSpec](body, "destination", "sources", "rules")
	if err != nil {
		return d.invalid(problem.InvalidObject, "%v", err)
	}
	if d.version == "v1alpha1" && spec.Rules == nil {
		old, err := convert[accessv1alpha1.TrafficTarget](body, "specs")
		if err != nil {
			return d.invalid(problem.InvalidObject, "%v", err)
		}
		for _, s := range old.Specs {
			spec.Rules = append(spec.Rules, accessv1alpha2.TrafficTargetRule(s))
		}
	}
	t, err := d.target(spec)
	if err != nil {
		return d.invalid(problem.InvalidTarget, "%v", err)
	}
	return t, nil
}

// target checks rule A2. A target with one wrong part allows nothing at all.
func (d decoding) target(spec accessv1alpha2.TrafficTargetSpec) (t TrafficTarget, err error) {
	t.Meta = d.Meta
	if t.Destination, err = d.identity(spec.Destination); err != nil {
		return t, fmt.Errorf("destination: %w", err)
	}
	if port := spec.Destination.Port; port != nil {
		if *port < 0 || *port > 65535 {
			return t, fmt.Errorf("destination.port: %d is not a port number", *port)
		}
		t.Port = int32(*port)
	}
	if len(spec.Rules) == 0 || len(spec.Sources) == 0 {
		return t, fmt.Errorf("it needs at least one rule and one source")
	}
	for i, r := range spec.Rules {
		switch {
		case r.Kind != "HTTPRouteGroup" && r.Kind != "TCPRoute" && r.Kind != "UDPRoute":
			return t, fmt.Errorf("rules[%d]: kind %s is no route", i, problem.Quote(r.Kind))
		case r.Name == "":
			return t, fmt.Errorf("rules[%d]: the name is missing", i)
		}
		t.Rules = append(t.Rules, Rule{Kind: r.Kind, Name: r.Name, Matches: r.Matches})
	}
	for i, s := range spec.Sources {
		source, err := d.identity(s)
		if err != nil {
			return t, fmt.Errorf("sources[%d]: %w", i, err)
		}
		t.Sources = append(t.Sources, source)
	}
	return t, nil
}

// identity takes a ServiceAccount and nothing else; a namespace that is not given is the target's own.
func (d decoding) identity(s accessv1alpha2.IdentityBindingSubject) (Identity, error) {
	switch {
	case s.Kind != "ServiceAccount":
		return Identity{}, fmt.Errorf("kind %s is not ServiceAccount", problem.Quote(s.Kind))
	case s.Name == "":
		return Identity{}, fmt.Errorf("the name is missing")
	}
	return Identity{Namespace: cmp.Or(s.Namespace, d.Ref.Namespace), Name: s.Name}, nil
}
