package bugreport

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestTextLosesSecrets(t *testing.T) {
	tests := map[string]struct{ in, want string }{
		"jwt":         {"token eyJhbGciOi.eyJpc3MiOi.c2lnbmF0 seen", "token [redacted] seen"},
		"bearer":      {"authorization: Bearer abcdefgh1234", "authorization: [redacted] [redacted]"},
		"basic":       {"sent Basic dXNlcjpwYXNz", "sent Basic [redacted]"},
		"json":        {`{"password":"hunter2","user":"ann"}`, `{"password":"[redacted]","user":"ann"}`},
		"url":         {"GET https://ann:hunter2@example.com/x", "GET https://[redacted]example.com/x"},
		"cookie":      {"cookie=sid-12345; path=/", "cookie=[redacted]; path=/"},
		"private key": {"a\n-----BEGIN EC PRIVATE KEY-----\nMHc\n-----END EC PRIVATE KEY-----\nb", "a\n[redacted]\nb"},
		"cut key":     {"-----BEGIN PRIVATE KEY-----\nMHc", "[redacted]"},
		"harmless":    {"proxy n1 connected, config 5f3a", "proxy n1 connected, config 5f3a"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := newSecrets().text(tt.in)
			if name == "bearer" { // either of the rules may win; nothing of the token may stay
				if strings.Contains(got, "abcdefgh") {
					t.Errorf("got %q", got)
				}
				return
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestObjectLosesSecrets(t *testing.T) {
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup",
		"metadata": map[string]any{
			"name":          "g",
			"managedFields": []any{map[string]any{"manager": "x"}},
			"annotations":   map[string]any{"kubectl.kubernetes.io/last-applied-configuration": "{}", "note": "kept"},
		},
		"spec": map[string]any{
			"matches": []any{map[string]any{"name": "m", "headers": []any{map[string]any{"Authorization": "abc", "x-user": "ann"}}}},
			"volumes": []any{map[string]any{"secret": map[string]any{"secretName": "tls"}}},
			"env":     []any{map[string]any{"name": "URL", "value": "redis://u:p@host/0"}},
		},
	}}
	newSecrets().object(o)
	want := map[string]any{
		"apiVersion": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup",
		"metadata": map[string]any{"name": "g", "annotations": map[string]any{"note": "kept"}},
		"spec": map[string]any{
			"matches": []any{map[string]any{"name": "m", "headers": []any{map[string]any{"Authorization": redacted, "x-user": "ann"}}}},
			"volumes": []any{map[string]any{"secret": map[string]any{"secretName": "tls"}}},
			"env":     []any{map[string]any{"name": "URL", "value": "redis://[redacted]host/0"}},
		},
	}
	if diff := cmp.Diff(want, o.Object); diff != "" {
		t.Error(diff)
	}
}
