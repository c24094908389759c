package smi_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/smi"
)

// TestWeightsOfEveryDecoder: JSON and YAML decoders and clients give numbers in different types.
func TestWeightsOfEveryDecoder(t *testing.T) {
	for _, tc := range []struct {
		version string
		weight  any
		want    int64 // -1: refused
	}{
		{"v1alpha4", int64(3), 3},
		{"v1alpha4", 3, 3},
		{"v1alpha4", float64(3), 3},
		{"v1alpha4", json.Number("3"), 3},
		{"v1alpha4", json.Number("x"), -1},
		{"v1alpha4", math.NaN(), -1},
		{"v1alpha4", math.Inf(1), -1},
		{"v1alpha4", int64(math.MaxInt32), math.MaxInt32},
		{"v1alpha4", int64(math.MaxInt32 + 1), -1},
		{"v1alpha4", nil, -1},
		{"v1alpha1", int64(3), 3000},
		{"v1alpha1", 0.25, 250},
		{"v1alpha1", "500m", 500},
		{"v1alpha1", "1k", 1_000_000},
		{"v1alpha1", "1Ki", 1_024_000},
		{"v1alpha1", "9E", -1},
		{"v1alpha1", "100n", -1},
		{"v1alpha1", "1e3", 1_000_000},
		{"v1alpha1", "1e10", -1},
		{"v1alpha1", "1e999999999", -1},
		{"v1alpha1", true, -1},
		{"v1alpha1", nil, -1},
	} {
		object, problems := smi.Decode(map[string]any{
			"apiVersion": "split.smi-spec.io/" + tc.version, "kind": "TrafficSplit", "metadata": map[string]any{"name": "s"},
			"spec": map[string]any{"service": "web", "backends": []any{map[string]any{"service": "a", "weight": tc.weight}}},
		})
		split, ok := object.(smi.TrafficSplit)
		switch {
		case tc.want < 0 && (len(problems) != 1 || problems[0].Reason != problem.InvalidWeight):
			t.Errorf("%s %v: got %v, want InvalidWeight", tc.version, tc.weight, problems)
		case tc.want >= 0 && (!ok || split.Backends[0].Weight != tc.want):
			t.Errorf("%s %v: got %v %v, want %d", tc.version, tc.weight, object, problems, tc.want)
		}
	}
}

// TestHugeValues: whatever a user writes, a message stays short and decoding quick.
func TestHugeValues(t *testing.T) {
	huge := strings.Repeat("(", 1<<20)
	for kind, spec := range map[string]map[string]any{
		"TrafficSplit":   {"service": huge, "backends": []any{}},
		"HTTPRouteGroup": {"matches": []any{map[string]any{"name": "x", "pathRegex": huge}}},
		"TCPRoute":       {"matches": huge},
		"UDPRoute":       {"matches": huge},
		"TrafficTarget":  {"destination": map[string]any{"kind": huge}},
	} {
		group := map[string]string{"TrafficSplit": smi.SplitGroup + "/v1alpha4", "TrafficTarget": smi.AccessGroup + "/v1alpha3"}[kind]
		if group == "" {
			group = smi.SpecsGroup + "/v1alpha4"
		}
		object, problems := smi.Decode(map[string]any{"apiVersion": group, "kind": kind, "metadata": map[string]any{"name": "x"}, "spec": spec})
		if object != nil || len(problems) != 1 || len(problems[0].Message) > 1024 {
			t.Errorf("%s: got %v %.100v", kind, object, problems)
		}
	}
}
