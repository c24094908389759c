package smi

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"

	splitv1alpha4 "github.com/servicemeshinterface/smi-sdk-go/pkg/apis/split/v1alpha4"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/tulle-mesh/tulle/internal/problem"
)

// maxWeight is the largest weight: what a 32-bit integer of a CRD holds.
const maxWeight = math.MaxInt32

// decodeSplit decodes all versions alike: they differ in matches, which v1alpha3 brought, and in the form of the
// weights, which are read from the raw content because the SDK's int takes a missing or a huge weight for a number.
func decodeSplit(d decoding) (any, []problem.Problem) {
	body := d.body(false, "backends")
	weights, why := d.weights(body)
	if why != "" {
		return d.invalid(problem.InvalidWeight, "%s", why)
	}
	spec, err := convert[splitv1alpha4.TrafficSplitSpec](withoutWeights(body), "service", "backends", "matches")
	if err != nil {
		return d.invalid(problem.InvalidObject, "spec.%v", err)
	}
	s := TrafficSplit{Meta: d.Meta}
	if s.Service, why = d.service(spec.Service); why != "" {
		return d.invalid(problem.InvalidObject, "spec.service: %s", why)
	}
	if len(spec.Backends) == 0 {
		return d.invalid(problem.InvalidObject, "spec.backends is empty")
	}
	for i, b := range spec.Backends {
		name, why := d.service(b.Service)
		if why != "" {
			return d.invalid(problem.InvalidObject, "spec.backends[%d].service: %s", i, why)
		}
		s.Backends = append(s.Backends, SplitBackend{Service: name, Weight: weights[i]})
	}
	for i, m := range spec.Matches {
		if m.Kind != "HTTPRouteGroup" || m.Name == "" {
			return d.invalid(problem.InvalidObject, "spec.matches[%d] names no HTTPRouteGroup", i)
		}
		s.Matches = append(s.Matches, m.Name)
	}
	return s, nil
}

// service cuts a fully qualified name to its first label. A split's services are those of its own namespace.
func (d decoding) service(name string) (service, why string) {
	service, rest, qualified := strings.Cut(name, ".")
	if errs := validation.IsDNS1123Label(service); errs != nil {
		return "", problem.Quote(name) + " is not the name of a Service"
	}
	if namespace, _, _ := strings.Cut(rest, "."); qualified && namespace != d.Ref.Namespace {
		return "", problem.Quote(name) + " is not in the namespace of the TrafficSplit"
	}
	return service, ""
}

// weights reads the weights of all backends that are objects; what else is wrong with a backend is found later.
func (d decoding) weights(body map[string]any) ([]int64, string) {
	backends, _ := body["backends"].([]any)
	weights := make([]int64, len(backends))
	for i, b := range backends {
		backend, ok := b.(map[string]any)
		if !ok {
			continue
		}
		w, err := wholeNumber(backend["weight"])
		if d.version == "v1alpha1" {
			w, err = thousandths(backend["weight"])
		}
		if err != nil {
			return nil, fmt.Sprintf("spec.backends[%d].weight: %v", i, err)
		}
		weights[i] = w
	}
	return weights, ""
}

func withoutWeights(body map[string]any) map[string]any {
	backends, ok := body["backends"].([]any)
	if !ok {
		return body
	}
	bare := make([]any, len(backends))
	for i, b := range backends {
		bare[i] = b
		if backend, ok := b.(map[string]any); ok {
			bare[i] = map[string]any{"service": backend["service"]}
		}
	}
	return map[string]any{"service": body["service"], "backends": bare, "matches": body["matches"]}
}

// wholeNumber reads a number as JSON and YAML decoders give it.
func wholeNumber(v any) (int64, error) {
	var f float64
	switch x := v.(type) {
	case nil:
		return 0, fmt.Errorf("is missing")
	case int64:
		return inRange(x, x)
	case int:
		return inRange(int64(x), x)
	case float64:
		f = x
	case json.Number:
		var err error
		if f, err = x.Float64(); err != nil {
			return 0, fmt.Errorf("%s is not a number", problem.Quote(x.String()))
		}
	default:
		return 0, fmt.Errorf("%s is not a number", problem.Quote(fmt.Sprint(v)))
	}
	if math.Abs(f) > maxWeight || f != math.Trunc(f) {
		return 0, fmt.Errorf("%v is not a whole number from 0 to %d", v, maxWeight)
	}
	return inRange(int64(f), v)
}

func inRange(w int64, as any) (int64, error) {
	if w < 0 || w > maxWeight {
		return 0, fmt.Errorf("%v is not a whole number from 0 to %d", as, maxWeight)
	}
	return w, nil
}

// quantity is what a weight of v1alpha1 may look like: short and with a small exponent, because a quantity such as
// 1e999999999 costs its parser gigabytes.
var quantity = regexp.MustCompile(`^-?[0-9]{1,12}(\.[0-9]{1,9})?([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9])?$`)

// thousandths reads a weight of v1alpha1: a quantity, of which 1 is 1000 and 500m is 500.
func thousandths(v any) (int64, error) {
	var text string
	switch x := v.(type) {
	case nil:
		return 0, fmt.Errorf("is missing")
	case string:
		text = x
	case float64:
		text = strconv.FormatFloat(x, 'f', -1, 64)
	default:
		text = fmt.Sprint(v)
	}
	if !quantity.MatchString(text) {
		return 0, fmt.Errorf("%s is not a quantity", problem.Quote(text))
	}
	q, err := resource.ParseQuantity(text)
	if err != nil {
		return 0, fmt.Errorf("%s is not a quantity", problem.Quote(text))
	}
	milli := q.MilliValue()
	if q.Cmp(*resource.NewMilliQuantity(milli, q.Format)) != 0 {
		return 0, fmt.Errorf("%s is not a whole number of thousandths", problem.Quote(text))
	}
	return inRange(milli, text)
}
