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

	"github.com/tulle-mesh/tulle/internal/breaker"
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
	maxRate          = 1_000_000 // requests per second
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
	prefer        Prefer
	breaker       string
	average       uint32
	burst         uint32
}

// settings reads the annotations. One with a wrong value is as if it were not there.
func (b *builder) settings(svc *corev1.Service) settings {
	s := settings{prefer: distribution(svc)}
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
		known, err := s.set(name, strings.TrimSpace(value), svc)
		switch {
		case !known:
			unknown = append(unknown, key)
		case err != nil:
			b.report(serviceRef(svc), problem.InvalidAnnotation, "the annotation %s has the value %s, which is not %v; it is ignored", key, problem.Quote(value), err)
		}
	}
	s.limitRate()
	if len(unknown) > 0 {
		slices.Sort(unknown)
		b.report(serviceRef(svc), problem.UnsupportedAnnotation, "these annotations have no effect in this version of the mesh: %s", problem.QuoteAll(unknown))
	}
	return s
}

// set takes in one annotation. The error says what the value should have been.
func (s *settings) set(name, raw string, svc *corev1.Service) (known bool, err error) {
	value := strings.ToLower(raw)
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
	case "prefer":
		var p Prefer
		if p, err = oneOf(value, "none", PreferZone, PreferNode); err == nil {
			s.prefer = p
		}
		if s.prefer == "none" {
			s.prefer = ""
		}
	case "circuit-breaker-expression":
		e, parseErr := breaker.Parse(raw)
		if parseErr != nil {
			return true, fmt.Errorf("an expression of a circuit breaker (%w)", parseErr)
		}
		s.breaker = e.String()
	case "ratelimit-average":
		s.average, err = rate(value, 0)
	case "ratelimit-burst":
		s.burst, err = rate(value, 1)
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

// rate reads a number of requests.
func rate(value string, least uint64) (uint32, error) {
	n, err := strconv.ParseUint(value, 10, 32)
	if err != nil || n < least || n > maxRate {
		return 0, fmt.Errorf("a whole number from %d to %d", least, maxRate)
	}
	return uint32(n), nil
}

// limitRate completes a limit: without a burst it is a second's worth, without an average there is no limit.
func (s *settings) limitRate() {
	switch {
	case s.average == 0:
		s.burst = 0
	case s.burst == 0:
		s.burst = s.average
	}
}

// distribution is what the Service itself says of the endpoints that are preferred.
func distribution(svc *corev1.Service) Prefer {
	if svc.Spec.TrafficDistribution == nil {
		return ""
	}
	switch *svc.Spec.TrafficDistribution {
	case corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone:
		return PreferZone
	case corev1.ServiceTrafficDistributionPreferSameNode:
		return PreferNode
	}
	return ""
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
