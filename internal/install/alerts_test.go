package install

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func alerts(t *testing.T) []map[string]any {
	t.Helper()
	groups, _, _ := unstructured.NestedSlice(find(t, render(t, everything), "PrometheusRule", "tulle").Object, "spec", "groups")
	var out []map[string]any
	for _, r := range groups[0].(map[string]any)["rules"].([]any) {
		out = append(out, r.(map[string]any))
	}
	if len(out) < 10 {
		t.Fatalf("%d alerts", len(out))
	}
	return out
}

// Whoever is woken by an alert finds its section, and no section is about an alert that doesn't exist.
func TestEveryAlertIsInTheRunbook(t *testing.T) {
	text, err := os.ReadFile("../../docs/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	var sections, names []string
	for _, m := range regexp.MustCompile(`(?m)^## (Tulle\w+)$`).FindAllStringSubmatch(string(text), -1) {
		sections = append(sections, m[1])
	}
	for _, a := range alerts(t) {
		name := a["alert"].(string)
		names = append(names, name)
		annotations := a["annotations"].(map[string]any)
		if url, _ := annotations["runbook_url"].(string); !strings.HasSuffix(url, "docs/runbook.md#"+strings.ToLower(name)) {
			t.Errorf("%s: runbook_url %q", name, url)
		}
		if s, _ := annotations["summary"].(string); s == "" || strings.Contains(s, "%!") {
			t.Errorf("%s: summary %q", name, s)
		}
	}
	if !slices.Equal(sections, names) {
		t.Errorf("the runbook has sections\n%v\nthe chart has alerts\n%v", sections, names)
	}
}

// An alert on a metric that nobody exports would never fire.
func TestAlertsUseMetricsThatExist(t *testing.T) {
	exported := map[string]bool{}
	for _, dir := range []string{"../../internal", "../../cmd"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			source, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			prefix := ""
			if strings.Contains(path, "internal/proxy/meter") {
				prefix = "tulle_proxy_" // the package's own constant
			}
			for _, m := range regexp.MustCompile(`"([a-z_]+)"`).FindAllStringSubmatch(string(source), -1) {
				exported[prefix+m[1]] = true
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range alerts(t) {
		metrics := regexp.MustCompile(`tulle_\w+`).FindAllString(a["expr"].(string), -1)
		if len(metrics) == 0 {
			t.Errorf("%s is about no metric: %s", a["alert"], a["expr"])
		}
		for _, m := range metrics {
			if !exported[m] {
				t.Errorf("%s: nobody exports %s", a["alert"], m)
			}
		}
	}
}
