package smi

import (
	"fmt"

	specsv1alpha4 "github.com/servicemeshinterface/smi-sdk-go/pkg/apis/specs/v1alpha4"

	"github.com/tulle-mesh/tulle/internal/problem"
)

// decodeTCPRoute decodes all versions: those before v1alpha4 have no matches, hence no ports, which means all.
func decodeTCPRoute(d decoding) (any, []problem.Problem) {
	spec, err := convert[specsv1alpha4.TCPRouteSpec](d.body(false, "matches"), "matches")
	if err != nil {
		return d.invalid(problem.InvalidObject, "spec.%v", err)
	}
	ports, err := checkPorts(spec.Matches.Ports)
	if err != nil {
		return d.invalid(problem.InvalidObject, "spec.matches.ports: %v", err)
	}
	return TCPRoute{Meta: d.Meta, Ports: ports}, nil
}

func decodeUDPRoute(d decoding) (any, []problem.Problem) {
	spec, err := convert[specsv1alpha4.UDPRouteSpec](d.body(false, "matches"), "matches")
	if err != nil {
		return d.invalid(problem.InvalidObject, "spec.%v", err)
	}
	ports, err := checkPorts(spec.Matches.Ports)
	if err != nil {
		return d.invalid(problem.InvalidObject, "spec.matches.ports: %v", err)
	}
	return UDPRoute{Meta: d.Meta, Ports: ports}, nil
}

func checkPorts(in []int) ([]int32, error) {
	var ports []int32
	for _, p := range in {
		if p < 1 || p > 65535 {
			return nil, fmt.Errorf("%d is not a port number", p)
		}
		ports = append(ports, int32(p))
	}
	return ports, nil
}
