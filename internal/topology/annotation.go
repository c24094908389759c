package topology

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/tulle-mesh/tulle/internal/problem"
)

// The prefixes of the annotations on Services. The first is the mesh's own and wins; the second is understood for those
// who come from Traefik Mesh.
const (
	prefix        = "tulle.dev/"
	traefikPrefix = "mesh.traefik.io/"
)

const (
	maxRetryAttempts = 10
	maxTimeout       = 24 * time.Hour
)

// settings are the annotations of a Service; the zero value is the default.
type settings struct {
	trafficType   Protocol
	scheme        Scheme
	retryAttempts int
	timeout       time.Duration
	dedicated     bool
	shared        bool
	headlessPods  bool
	encodedSlash  bool
	account       string // of endpoints that are no pods
}

// settings reads the annotations. One with a wrong value is as if it were not there.
func (b *builder) settings(svc *corev1.Service) settings {
	var s settings
	var unknown []string
	for key, value := range svc.Annotations {
		name, ok := strings.CutPrefix(key, prefix)
		if !ok {
			if name, ok = strings.CutPrefix(key, traefikPrefix); !ok {
				continue
			}
			if _, overruled := svc.Annotations[prefix+name]; overruled {
				continue
			}
		}
		known, err := s.set(name, strings.ToLower(strings.TrimSpace(value)), svc)
		switch {
		case !known:
			unknown = append(unknown, key)
		case err != nil:
			b.report(serviceRef(svc), problem.InvalidAnnotation, "the annotation %s has the value %s, which is not %v; it is ignored", key, problem.Quote(value), err)
		}
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		b.report(serviceRef(svc), problem.UnsupportedAnnotation, "these annotations have no effect in this version of the mesh: %s", problem.QuoteAll(unknown))
	}
	return s
}

// set takes in one annotation. The error says what the value should have been.
func (s *settings) set(name, value string, svc *corev1.Service) (known bool, err error) {
	switch name {
	case "traffic-type":
		s.trafficType, err = oneOf(value, HTTP, TCP, UDP)
		if err == nil && !fits(s.trafficType, svc) {
			s.trafficType, err = "", fmt.Errorf("possible with the protocols of the Service's ports")
		}
	case "scheme":
		s.scheme, err = oneOf(value, SchemeHTTP, SchemeH2C, SchemeHTTPS)
	case "retry-attempts":
		n, parseErr := strconv.Atoi(value)
		if parseErr != nil || n < 0 || n > maxRetryAttempts {
			return true, fmt.Errorf("a whole number from 0 to %d", maxRetryAttempts)
		}
		s.retryAttempts = n
	case "timeout":
		d, parseErr := time.ParseDuration(value)
		if parseErr != nil || d < 0 || d > maxTimeout || d%time.Millisecond != 0 {
			return true, fmt.Errorf("a duration of whole milliseconds up to %v, such as 5s", maxTimeout)
		}
		s.timeout = d
	case "address":
		var mode string
		mode, err = oneOf(value, "shared", "dedicated")
		s.shared, s.dedicated = mode == "shared", mode == "dedicated"
	case "encoded-slash":
		_, err = oneOf(value, "allow", "refuse")
		s.encodedSlash = value == "allow"
	case "service-account":
		if validation.IsDNS1123Subdomain(value) != nil {
			return true, errors.New("the name of a ServiceAccount")
		}
		s.account = value
	case "headless-pods":
		_, err = oneOf(value, "true", "false")
		s.headlessPods = value == "true"
		if s.headlessPods && svc.Spec.ClusterIP != corev1.ClusterIPNone {
			s.headlessPods, err = false, fmt.Errorf("possible on a Service that is not headless")
		}
	default:
		return false, nil
	}
	return true, err
}

func oneOf[T ~string](value string, choices ...T) (T, error) {
	if slices.Contains(choices, T(value)) {
		return T(value), nil
	}
	return "", fmt.Errorf("one of %q", choices)
}

// fits says whether any port of svc can be of type t: the transport is the Service's to say.
func fits(t Protocol, svc *corev1.Service) bool {
	return slices.ContainsFunc(svc.Spec.Ports, func(p corev1.ServicePort) bool {
		return (p.Protocol == corev1.ProtocolUDP) == (t == UDP)
	})
}
