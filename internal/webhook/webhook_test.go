package webhook_test

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	admissionv1 "k8s.io/api/admission/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/smi"
	"github.com/tulle-mesh/tulle/internal/webhook"
)

func serve(t *testing.T, c webhook.Config) (string, *webhook.Handler) {
	t.Helper()
	c.Log = slog.New(slog.DiscardHandler)
	h := webhook.New(c)
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL, h
}

func post(t *testing.T, url, body string) (int, []byte) {
	t.Helper()
	r, err := http.Post(url, "application/json", strings.NewReader(body)) //nolint:noctx // it is on this machine
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, b
}

// conversionReview is what an API server of Kubernetes 1.34 sends.
const conversionReview = `{"kind":"ConversionReview","apiVersion":"apiextensions.k8s.io/v1","request":{"uid":"0b5b0e9d","desiredAPIVersion":"%s","objects":[%s]}}`

const (
	old = `{"apiVersion":"split.smi-spec.io/v1alpha1","kind":"TrafficSplit","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","generation":1,"name":"web","namespace":"shop","uid":"u1","managedFields":[{"apiVersion":"split.smi-spec.io/v1alpha1","fieldsType":"FieldsV1","fieldsV1":{"f:spec":{}},"manager":"flagger","operation":"Update"}]},"spec":{"service":"web","backends":[{"service":"web-canary","weight":"10"},{"service":"web-primary","weight":"90"}]}}`
	now = `{"apiVersion":"split.smi-spec.io/v1alpha4","kind":"TrafficSplit","metadata":{"name":"other","namespace":"shop"},"spec":{"service":"web","backends":[{"service":"a","weight":12345678}]}}`
)

func convert(t *testing.T, url, to string, objects ...string) apiextensionsv1.ConversionReview {
	t.Helper()
	code, body := post(t, url+webhook.ConvertPath, fmt.Sprintf(conversionReview, to, strings.Join(objects, ",")))
	var out apiextensionsv1.ConversionReview
	if err := json.Unmarshal(body, &out); err != nil || code != http.StatusOK {
		t.Fatalf("%d %v: %s", code, err, body)
	}
	if out.Kind != "ConversionReview" || out.APIVersion != "apiextensions.k8s.io/v1" || out.Response == nil || out.Response.UID != "0b5b0e9d" || out.Request != nil {
		t.Fatalf("not the answer to the question: %s", body)
	}
	return out
}

func TestConvert(t *testing.T) {
	url, h := serve(t, webhook.Config{})
	out := convert(t, url, "split.smi-spec.io/v1alpha4", old, now)
	if out.Response.Result.Status != "Success" || len(out.Response.ConvertedObjects) != 2 {
		t.Fatalf("answered %+v", out.Response)
	}
	const want = `"spec":{"backends":[{"service":"web-canary","weight":10000},{"service":"web-primary","weight":90000}],"service":"web"}`
	if got := string(out.Response.ConvertedObjects[0].Raw); !strings.Contains(got, want) || !strings.Contains(got, `"uid":"u1"`) || !strings.Contains(got, `"manager":"flagger"`) {
		t.Errorf("the older one became %s", got)
	}
	// Whole numbers stay whole: the API server would refuse 1.2345678e+07.
	if got := string(out.Response.ConvertedObjects[1].Raw); !strings.Contains(got, `"weight":12345678`) {
		t.Errorf("the other became %s", got)
	}
	back := convert(t, url, "split.smi-spec.io/v1alpha1", string(out.Response.ConvertedObjects[0].Raw))
	if got := string(back.Response.ConvertedObjects[0].Raw); !strings.Contains(got, `"weight":"90"`) {
		t.Errorf("and back: %s", got)
	}
	for what, o := range map[string]string{"an unknown kind": `{"apiVersion":"split.smi-spec.io/v1alpha1","kind":"Other","metadata":{"name":"x"}}`, "no object": `"x"`} {
		out := convert(t, url, "split.smi-spec.io/v1alpha4", old, o)
		if out.Response.Result.Status != "Failure" || out.Response.Result.Message == "" || len(out.Response.ConvertedObjects) != 0 {
			t.Errorf("%s: answered %+v", what, out.Response)
		}
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(h.Collector())
	page := httptest.NewRecorder()
	promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}).ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/", nil))
	for _, want := range []string{
		`tulle_controller_webhook_answers_total{result="failed",webhook="convert"} 2`, `tulle_controller_webhook_answers_total{result="ok",webhook="convert"} 2`,
		`tulle_controller_webhook_answers_total{result="refused",webhook="validate"} 0`,
	} {
		if !strings.Contains(page.Body.String(), want+"\n") {
			t.Errorf("no %s in\n%s", want, page.Body)
		}
	}
}

// admissionReview is what an API server of Kubernetes 1.34 sends.
const admissionReview = `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"705ab4f5","kind":{"group":"%[1]s","version":"%[2]s","kind":"%[3]s"},"resource":{"group":"%[1]s","version":"%[2]s","resource":"%[4]s"},"requestKind":{"group":"%[1]s","version":"%[2]s","kind":"%[3]s"},"requestResource":{"group":"%[1]s","version":"%[2]s","resource":"%[4]s"},"name":"x","namespace":"shop","operation":"%[5]s","userInfo":{"username":"admin","groups":["system:masters"]},"object":%[6]s,"oldObject":%[7]s,"dryRun":false,"options":{"kind":"CreateOptions","apiVersion":"meta.k8s.io/v1"}}}`

func TestValidate(t *testing.T) {
	group := func(version, body, metadata string) string {
		return fmt.Sprintf(`{"apiVersion":"specs.smi-spec.io/%s","kind":"HTTPRouteGroup","metadata":{"name":"x","namespace":"shop"%s},%s}`, version, metadata, body)
	}
	bad, worse, good := `"spec":{"matches":[{"name":"m","pathRegex":"(["}]}`, `"spec":{"matches":[{"name":"m","pathRegex":"(("}]}`, `"spec":{"matches":[{"name":"m"}]}`
	for what, c := range map[string]struct {
		operation, object, old string
		foreign                bool
		warn                   string // what Judge says
		refused                string
		warnings               string
	}{
		"good":                       {operation: "CREATE", object: group("v1alpha4", good, "")},
		"bad":                        {operation: "CREATE", object: group("v1alpha4", bad, ""), refused: `InvalidRegex: matches[0]: pathRegex: "([" is not a regular expression of RE2: missing closing ]`},
		"bad, of old":                {operation: "CREATE", object: group("v1alpha1", `"matches":[{"name":"m","pathRegex":"(["}]`, ""), refused: "InvalidRegex: matches[0]: pathRegex: "},
		"bad before":                 {operation: "UPDATE", object: group("v1alpha4", bad, `,"labels":{"a":"b"}`), old: group("v1alpha4", bad, ""), warnings: "InvalidRegex: "},
		"bad otherwise":              {operation: "UPDATE", object: group("v1alpha4", worse, ""), old: group("v1alpha4", bad, ""), refused: "InvalidRegex: "},
		"bad, and made good":         {operation: "UPDATE", object: group("v1alpha4", good, ""), old: group("v1alpha4", bad, "")},
		"bad, and about to end":      {operation: "UPDATE", object: group("v1alpha4", worse, `,"deletionTimestamp":"2026-01-01T00:00:00Z"`), old: group("v1alpha4", bad, ""), warnings: "InvalidRegex: "},
		"bad, of somebody else":      {operation: "CREATE", object: group("v1alpha4", bad, ""), foreign: true, warnings: "InvalidRegex: "},
		"bad beside others":          {operation: "CREATE", object: group("v1alpha4", good, ""), warn: "is early", warnings: "RootNotFound: is early"},
		"a name is to be made":       {operation: "CREATE", object: `{"apiVersion":"specs.smi-spec.io/v1alpha4","kind":"TCPRoute","metadata":{"generateName":"x-","namespace":"shop"}}`},
		"deleted":                    {operation: "DELETE", object: "null", old: group("v1alpha4", bad, "")},
		"a version that there isn't": {operation: "CREATE", object: group("v1beta1", good, ""), refused: "UnknownKind: "},
	} {
		t.Run(what, func(t *testing.T) {
			url, _ := serve(t, webhook.Config{
				Foreign: func(group, resource string) bool {
					return c.foreign && group == smi.SpecsGroup && resource == "httproutegroups"
				},
				Judge: func(object any) []problem.Problem {
					if c.warn == "" {
						return nil
					}
					return []problem.Problem{problem.Newf(object.(smi.HTTPRouteGroup).Ref, problem.RootNotFound, "%s", c.warn)}
				},
			})
			if c.old == "" {
				c.old = "null"
			}
			code, body := post(t, url+webhook.ValidatePath, fmt.Sprintf(admissionReview, smi.SpecsGroup, "v1alpha4", "HTTPRouteGroup", "httproutegroups", c.operation, c.object, c.old))
			var out admissionv1.AdmissionReview
			if err := json.Unmarshal(body, &out); err != nil || code != http.StatusOK || out.Response == nil || out.Response.UID != "705ab4f5" || out.Kind != "AdmissionReview" {
				t.Fatalf("%d %v: %s", code, err, body)
			}
			r := out.Response
			if r.Allowed != (c.refused == "") || c.refused != "" && (r.Result.Code != 422 || !strings.HasPrefix(r.Result.Message, c.refused) || strings.Contains(r.Result.Message, "ignored")) {
				t.Errorf("answered %s, want %q", body, c.refused)
			}
			if got := strings.Join(r.Warnings, "; "); !strings.HasPrefix(got, c.warnings) || (got == "") != (c.warnings == "") {
				t.Errorf("warned %q, want %q", got, c.warnings)
			}
		})
	}
}

// TestRubbish: whatever comes, it is an answer, and the next question is answered as well.
func TestRubbish(t *testing.T) {
	url, _ := serve(t, webhook.Config{Judge: func(any) []problem.Problem { panic("a bug") }})
	for _, path := range []string{webhook.ConvertPath, webhook.ValidatePath} {
		for _, body := range []string{"", "{", "[]", "{}", `{"request":{"objects":[7]}}`, `{"request":{"operation":"CREATE","object":"x"}}`} {
			if code, got := post(t, url+path, body); code != http.StatusBadRequest && code != http.StatusOK || len(got) == 0 {
				t.Errorf("%s %q: %d %s", path, body, code, got)
			}
		}
		if code, _ := post(t, url+path, strings.Repeat(" ", 9<<20)); code != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: 9 MiB get %d", path, code)
		}
	}
	if code, got := post(t, url+webhook.ValidatePath, fmt.Sprintf(admissionReview, smi.SplitGroup, "v1alpha4", "TrafficSplit", "trafficsplits", "CREATE", now, "null")); code != http.StatusBadRequest || !strings.Contains(string(got), "a bug") {
		t.Errorf("a bug is answered with %d %s", code, got)
	}
	if out := convert(t, url, "split.smi-spec.io/v1alpha4", old); out.Response.Result.Status != "Success" {
		t.Errorf("answered %+v", out.Response)
	}
}
