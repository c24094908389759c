package install

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// Every flag of the commands is set by a value, by the pod's environment, or is in this list with a reason; and the chart
// gives no flag that the command doesn't have.
func TestChartAndFlagsAgree(t *testing.T) {
	// What the chart's own Services, probes and volumes depend on can't be changed by a value. The socket's name is a
	// value with identity.mode spire only.
	fixed := map[string][]string{
		"tulle-controller": {"push-address", "metrics-address", "health-address", "admin-address", "traefik-address", "kubeconfig"},
		"tulle-proxy":      {"spire-socket", "tunnel-address", "controller-name", "ca-file", "token-file", "identity-token-file", "trust-file", "store", "dns-address", "metrics-address", "health-address", "admin-address"},
		"tulle-identity":   {"identity-address", "metrics-address", "health-address", "kubeconfig"},
		"tulle-dns":        {"metrics-address", "health-address", "kubeconfig"},
	}
	r := render(t, everything)
	var proxy appsv1.DaemonSet
	typed(t, find(t, r, "DaemonSet", "tulle-proxy"), &proxy)
	containers := map[string]corev1.Container{"tulle-proxy": proxy.Spec.Template.Spec.Containers[0]}
	for _, o := range r.Objects {
		if o.GetKind() == "Deployment" {
			var d appsv1.Deployment
			typed(t, o, &d)
			containers[d.Name] = d.Spec.Template.Spec.Containers[0]
		}
	}
	for command, container := range containers {
		flags := flagsOf(t, command)
		given := map[string]bool{}
		for _, arg := range container.Args {
			if !strings.HasPrefix(arg, "--") {
				continue // a subcommand
			}
			name, _, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
			given[name] = true
			if !slices.Contains(flags, name) {
				t.Errorf("the chart gives %s a flag that it doesn't have: %s", command, arg)
			}
		}
		for _, e := range container.Env {
			given[strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(e.Name, "TULLE_"), "_", "-"))] = true
		}
		for _, f := range flags {
			if !given[f] && !slices.Contains(fixed[command], f) {
				t.Errorf("%s: no value sets --%s", command, f)
			}
		}
		for _, f := range fixed[command] {
			if !slices.Contains(flags, f) {
				t.Errorf("%s has no flag --%s any more", command, f)
			}
		}
	}
}

// The defaults of values are those of the commands: whoever runs a command by hand gets the same mesh.
func TestDefaultsAreThoseOfTheFlags(t *testing.T) {
	r := render(t, "{}")
	for command, kind := range map[string]string{"tulle-controller": "Deployment", "tulle-identity": "Deployment", "tulle-dns": "Deployment", "tulle-proxy": "DaemonSet"} {
		defaults := map[string]string{}
		for _, m := range regexp.MustCompile(`f\.DurationVar\(&[\w.]+, "([a-z-]+)", (?:(\d+)\*)?time\.(\w+)`).FindAllStringSubmatch(sourceOf(t, command), -1) {
			n := m[2]
			if n == "" {
				n = "1"
			}
			defaults[m[1]] = n + map[string]string{"Millisecond": "ms", "Second": "s", "Minute": "m", "Hour": "h"}[m[3]]
		}
		var args []string
		for _, c := range find(t, r, kind, command).Object["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)["containers"].([]any) {
			for _, a := range c.(map[string]any)["args"].([]any) {
				args = append(args, a.(string))
			}
		}
		for _, f := range slices.Sorted(maps.Keys(defaults)) {
			if !slices.Contains(args, "--"+f+"="+defaults[f]) {
				t.Errorf("%s: the chart doesn't give --%s=%s", command, f, defaults[f])
			}
		}
	}
}

// parts are the files with the flags of what is a process of its own, and no command of its own.
func parts() map[string]string {
	return map[string]string{"tulle-identity": "signer.go", "tulle-dns": "dns.go"}
}

// sourceOf is the source of a command, or of a part of one.
func sourceOf(t *testing.T, command string) string {
	t.Helper()
	pattern := "../../cmd/" + command + "/*.go"
	if _, part := parts()[command]; part {
		pattern = "../../cmd/tulle-controller/*.go"
	}
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range files {
		of := filepath.Base(f)
		if part, ok := parts()[command]; ok && of != part && of != "process.go" || !ok && slices.Contains(slices.Collect(maps.Values(parts())), of) {
			continue
		}
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
	}
	return all.String()
}

func flagsOf(t *testing.T, command string) []string {
	t.Helper()
	var out []string
	for _, m := range regexp.MustCompile(`f\.\w+Var\(&[\w.]+, "([a-z-]+)"`).FindAllStringSubmatch(sourceOf(t, command), -1) {
		out = append(out, m[1])
	}
	if len(out) < 10 {
		t.Fatalf("found %d flags of %s only", len(out), command)
	}
	return out
}
