package bugreport

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/tulle-mesh/tulle/internal/fakeapi"
	"github.com/tulle-mesh/tulle/internal/install"
)

const cluster = `
{apiVersion: v1, kind: Secret, metadata: {name: tulle-controller-tls, namespace: tulle-system}, data: {tls.key: aHVudGVyMi1rZXk=}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: tulle-status, namespace: tulle-system}, data: {status.json: '{"leader":"c-1","password":"hunter2-map"}'}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: app, namespace: shop}, data: {config: hunter2-app}}
---
{apiVersion: v1, kind: Pod, metadata: {name: p-1, namespace: tulle-system, labels: {app.kubernetes.io/name: tulle, app.kubernetes.io/component: proxy}}, spec: {containers: [{name: proxy, env: [{name: TOKEN, value: "Bearer hunter2-env-value"}]}]}, status: {phase: Running, containerStatuses: [{name: proxy, restartCount: 1}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}}
`

func TestReportHoldsWhatHelpsAndNoSecret(t *testing.T) {
	s := fakeapi.New(t)
	for _, o := range fakeapi.Parse(cluster) {
		s.Put(o)
	}
	c, err := install.ConnectTo(&rest.Config{Host: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	c.Ask = func(_ context.Context, _, _ string, _ int, path string) ([]byte, error) {
		switch path {
		case "/metrics":
			return []byte("tulle_proxy_requests_total 1\n"), nil
		case "/config":
			return []byte(`{"match":{"authorization":"hunter2-config"}}`), nil
		}
		return nil, errors.New("connection refused")
	}
	var out bytes.Buffer
	if err := (&Collector{Cluster: c, Namespace: "tulle-system", Time: time.Unix(1, 0)}).Write(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	files := unpack(t, &out)
	for _, name := range []string{
		"version.json", "check.json", "missing.txt", "objects/services.yaml", "objects/pods.yaml", "objects/configmaps.yaml",
		"pods/p-1/log.txt", "pods/p-1/log-previous.txt", "pods/p-1/metrics.txt", "pods/p-1/config.txt",
	} {
		if _, has := files[name]; !has {
			t.Errorf("no %s", name)
		}
	}
	for name, text := range files {
		if strings.Contains(text, "hunter2") || strings.Contains(text, "aHVudGVyMi1rZXk") {
			t.Errorf("%s holds a secret:\n%s", name, text)
		}
	}
	if !strings.Contains(files["objects/services.yaml"], "name: web") || !strings.Contains(files["missing.txt"], "status of pod p-1: connection refused") {
		t.Errorf("services:\n%s\nmissing:\n%s", files["objects/services.yaml"], files["missing.txt"])
	}
	if slices.ContainsFunc(s.Writes(), func(string) bool { return true }) {
		t.Error("it wrote to the cluster")
	}
}

func unpack(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	z, err := gzip.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for a := tar.NewReader(z); ; {
		h, err := a.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(a)
		if err != nil {
			t.Fatal(err)
		}
		out[strings.TrimPrefix(h.Name, "tulle-bugreport/")] = string(data)
	}
}
