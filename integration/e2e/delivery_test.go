package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/integration/cluster"
)

const (
	flaggerPath = "github.com/fluxcd/flagger"
	argoPath    = "github.com/argoproj/argo-rollouts"
	argoProgram = "rollouts-controller"
	// All run in the network of the control plane.
	prometheusAddress = "127.0.0.1:9090"
	prometheusURL     = "http://" + prometheusAddress
	metricWindow      = "10s" // of rates
)

// startPrometheus starts Debian's Prometheus. It scrapes the proxies every second, with the labels that an operator would
// give them.
func (e *env) startPrometheus(t *testing.T) {
	t.Helper()
	cache, err := cluster.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	program, err := cluster.UnpackProgram(t.Context(), "prometheus", "usr/bin/prometheus", cache)
	if err != nil {
		t.Fatal(err)
	}
	var targets []any
	for _, p := range e.proxies(t) {
		targets = append(targets, map[string]any{
			"targets": []string{net.JoinHostPort(p.ip, fmt.Sprint(proxyMetricsPort))},
			"labels":  map[string]string{"namespace": p.namespace, "pod": p.name},
		})
	}
	config, err := yaml.Marshal(map[string]any{
		"global":         map[string]any{"scrape_interval": "1s"},
		"scrape_configs": []any{map[string]any{"job_name": "tulle", "honor_labels": true, "static_configs": targets}},
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	e.startProgram(t, "prometheus", program, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+prometheusAddress)
	e.eventually(t, "Prometheus scrapes all proxies", func() error {
		return e.hasSamples(t, fmt.Sprintf(`sum(up{job="tulle"}) == %d`, len(targets)))
	})
}

// hasSamples asks Prometheus.
func (e *env) hasSamples(t *testing.T, query string) error {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
		return e.embedded.DialIn(ctx, "cp", addr)
	}}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, prometheusURL+"/api/v1/query?query="+url.QueryEscape(query), nil)
	if err != nil {
		return err
	}
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	var answer struct {
		Data struct {
			Result []json.RawMessage `json:"result"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || len(answer.Data.Result) == 0 {
		return fmt.Errorf("%s: %s: %s", query, res.Status, body)
	}
	return nil
}

// startFlagger builds Flagger, unless the cache has it, and starts it for one namespace. Its CRDs go with the test.
func (e *env) startFlagger(t *testing.T, ns string) {
	t.Helper()
	program := e.cached(t, "flagger-"+e.pinned(t, "flagger", flaggerPath), "flagger", "flagger", flaggerPath+"/cmd/flagger")
	e.applyCRDs(t, filepath.Join(e.sources(t, "flagger", flaggerPath), "artifacts", "flagger", "crd.yaml"))
	e.startProgram(t, "flagger", program, "-kubeconfig="+e.kubectl.Kubeconfig, "-master="+e.embedded.APIServer(),
		"-metrics-server="+prometheusURL, "-namespace="+ns, "-control-loop-interval=1s", "-log-level=info")
}

// buildArgo returns the controller of Argo Rollouts. To build it takes nine minutes of a core, so that is done in a soak
// only; otherwise the test is skipped where the cache doesn't have it.
func (e *env) buildArgo(t *testing.T) string {
	t.Helper()
	name := "argo-rollouts-" + e.pinned(t, "argo", argoPath)
	cache, err := cluster.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(cache, name, argoProgram)); err != nil && os.Getenv(soakEnv) == "" {
		t.Skipf("Argo Rollouts SKIPPED: %s has no %s yet, which %s=1 builds, in about nine minutes of a core", cache, name, soakEnv)
	}
	return e.cached(t, name, argoProgram, "argo", argoPath+"/cmd/"+argoProgram)
}

// startArgo starts it for one namespace. Its CRDs go with the test.
func (e *env) startArgo(t *testing.T, program, ns string) {
	t.Helper()
	crds, err := filepath.Glob(filepath.Join(e.sources(t, "argo", argoPath), "manifests", "crds", "*-crd.yaml"))
	if err != nil || len(crds) == 0 {
		t.Fatalf("CRDs of Argo Rollouts: %v, %v", crds, err)
	}
	e.applyCRDs(t, crds...)
	e.startProgram(t, "argo-rollouts", program, "--kubeconfig="+e.kubectl.Kubeconfig, "--server="+e.embedded.APIServer(),
		"--namespaced", "--namespace="+ns, "--leader-elect=false")
}

// documented are the objects of docs/flagger.md, by kind.
func (e *env) documented(t *testing.T) map[string][]*unstructured.Unstructured {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(e.root, "docs", "flagger.md"))
	if err != nil {
		t.Fatal(err)
	}
	objects := map[string][]*unstructured.Unstructured{}
	for _, block := range regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$").FindAllSubmatch(text, -1) {
		for doc := range bytes.SplitSeq(block[1], []byte("\n---\n")) {
			o := &unstructured.Unstructured{}
			if err := yaml.Unmarshal(doc, &o.Object); err != nil {
				t.Fatalf("%v in:\n%s", err, doc)
			}
			objects[o.GetKind()] = append(objects[o.GetKind()], o)
		}
	}
	if len(objects["Canary"]) != 1 || len(objects["MetricTemplate"]) != 2 || len(objects["Rollout"]) != 1 || len(objects["Service"]) != 3 {
		t.Fatalf("docs/flagger.md has other objects than expected: %v", objects)
	}
	return objects
}

func (e *env) applyObject(t *testing.T, o *unstructured.Unstructured) {
	t.Helper()
	text, err := o.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	e.apply(t, o.GetNamespace(), string(text))
}

// set changes a field that the object has.
func set(t *testing.T, o *unstructured.Unstructured, value any, path ...string) {
	t.Helper()
	_, found, err := unstructured.NestedFieldNoCopy(o.Object, path...)
	if err == nil && !found {
		err = errors.New("it is not there")
	}
	if err == nil {
		err = unstructured.SetNestedField(o.Object, value, path...)
	}
	if err != nil {
		t.Fatalf("%s of %s %s: %v", strings.Join(path, "."), o.GetKind(), o.GetName(), err)
	}
}
