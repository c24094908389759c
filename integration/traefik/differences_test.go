package traefik_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
)

// difference is something that stock Traefik answers otherwise than the mesh's own proxy. Each is in
// docs/design/engines.md, by its id and with its reason.
type difference struct {
	id             string
	service        string // of the world below
	request        string // as it is sent, without the end of the head; HOST stands for the service's name
	tulle, traefik string // status, and what the backend saw; "closed" if there was no answer
}

// differences are told in HTTP/1 as it is on the wire.
func differences() []difference {
	return []difference{
		{"foreign-host", "web", "GET / HTTP/1.1\r\nHost: example.com", "200 old GET / example.com", "404"},
		{"no-host", "web", "GET / HTTP/1.0", "200 old GET / old", "404"},
		{"connect-method", "web", "CONNECT HOST:80 HTTP/1.1\r\nHost: HOST:80", "405 connect-method", "501"},
		{"host-port", "host", "GET / HTTP/1.1\r\nHost: HOST:80", "200 new GET / HOST:80", "200 old GET / HOST:80"},
		{"path-form", "new", "GET //a/./%62?q HTTP/1.1\r\nHost: HOST", "200 new GET //a/./%62?q HOST", "200 new GET /a/b?q HOST"},
		{"encoded-slash", "new", "GET /a%2Fb HTTP/1.1\r\nHost: HOST", "200 new GET /a%2Fb HOST", "400"},
		{"path-parameters", "web", "GET /x/..;p/new HTTP/1.1\r\nHost: HOST", "200 new GET /new HOST", "200 old GET /x/..;p/new HOST"},
		{"tulle-header", "new", "GET / HTTP/1.1\r\nHost: HOST\r\nX-Tell: Tulle-X\r\nTulle-X: 1", "200 new GET / HOST", `200 new GET / HOST ["1"]`},
		{"connect-failed", "dead", "GET / HTTP/1.1\r\nHost: HOST", "503 connect-failed", "502"},
		{"no-endpoint", "none", "GET / HTTP/1.1\r\nHost: HOST", "503 no-endpoint", "503"},
		{"no-backend", "zero", "GET / HTTP/1.1\r\nHost: HOST", "503 no-backend", "503"},
	}
}

const differencesWorld = `-- in.yaml --
{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: web}, spec: {ports: [{port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {namespace: shop, name: web-1, labels: {kubernetes.io/service-name: web}}, addressType: IPv4, ports: [{name: "", port: 8080}], endpoints: [{addresses: [203.0.113.1]}]}
---
{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: new}, spec: {ports: [{port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {namespace: shop, name: new-1, labels: {kubernetes.io/service-name: new}}, addressType: IPv4, ports: [{name: "", port: 8080}], endpoints: [{addresses: [203.0.113.2]}]}
---
{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: host}, spec: {ports: [{port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {namespace: shop, name: host-1, labels: {kubernetes.io/service-name: host}}, addressType: IPv4, ports: [{name: "", port: 8080}], endpoints: [{addresses: [203.0.113.1]}]}
---
{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: dead}, spec: {ports: [{port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {namespace: shop, name: dead-1, labels: {kubernetes.io/service-name: dead}}, addressType: IPv4, ports: [{name: "", port: 8081}], endpoints: [{addresses: [203.0.113.1]}]}
---
{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: none}, spec: {ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: zero}, spec: {ports: [{port: 80}]}}
---
{apiVersion: split.smi-spec.io/v1alpha4, kind: TrafficSplit, metadata: {namespace: shop, name: zero}, spec: {service: zero, backends: [{service: new, weight: 0}]}}
---
{apiVersion: split.smi-spec.io/v1alpha4, kind: TrafficSplit, metadata: {namespace: shop, name: path}, spec: {service: web, backends: [{service: new, weight: 1}], matches: [{kind: HTTPRouteGroup, name: path}]}}
---
{apiVersion: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, metadata: {namespace: shop, name: path}, spec: {matches: [{name: new, pathRegex: /new}]}}
---
{apiVersion: split.smi-spec.io/v1alpha4, kind: TrafficSplit, metadata: {namespace: shop, name: host}, spec: {service: host, backends: [{service: new, weight: 1}], matches: [{kind: HTTPRouteGroup, name: host}]}}
---
{apiVersion: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, metadata: {namespace: shop, name: host}, spec: {matches: [{name: port, headers: {host: ".*:80"}}]}}
`

// TestDifferences shows each difference on both engines.
func TestDifferences(t *testing.T) {
	tulle, traefik := binary(t, "TULLE"), binary(t, "TRAEFIK_V2")
	file := filepath.Join(t.TempDir(), "differences.txtar")
	if err := os.WriteFile(file, txtar.Format(txtar.Parse([]byte(differencesWorld))), 0o600); err != nil {
		t.Fatal(err)
	}
	w := prepareOne(t, tulle, file)
	config := w.config(t)
	old, other := loopback("10")+":8080", loopback("11")+":8080"
	b := newBackends(t)
	b.add(old, false)
	b.add(other, false)
	p := run(t, tulle, "run", "-f", w.dir)
	ports := map[string]served{}
	for _, one := range w.served(t, p, config) {
		ports[one.host] = one
	}
	s := startStock(t, traefik, false, w.entryPoints)
	s.load(t, w.dynamic)
	for _, d := range differences() {
		t.Run(d.id, func(t *testing.T) {
			host := d.service + ".shop.mesh"
			names := strings.NewReplacer(old, "old", other, "new", host, "HOST")
			for _, e := range []struct{ engine, at, want string }{{"tulle", ports[host].tulle, d.tulle}, {"traefik", ports[host].traefik, d.traefik}} {
				if got := names.Replace(raw(t, e.at, strings.ReplaceAll(d.request, "HOST", host))); got != e.want {
					t.Errorf("%s: got %q, want %q", e.engine, got, e.want)
				}
			}
		})
	}
}

// raw sends a request as it is.
func raw(t *testing.T, at, head string) string {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprint(c, head+"\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return "closed"
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return "broken off"
	}
	text := fmt.Sprint(answer.StatusCode)
	if reason := answer.Header.Get("Tulle-Reason"); reason != "" {
		return text + " " + reason
	}
	if answer.StatusCode == http.StatusOK && len(body) > 0 {
		text += " " + strings.TrimSuffix(string(body), " []")
	}
	return text
}

// TestEveryDifferenceIsDocumented: docs/design/engines.md has a row for each difference, and no row of another.
func TestEveryDifferenceIsDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/design/engines.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "\n## What is answered differently\n")
	table, _, _ = strings.Cut(table, "\n## ")
	rows := map[string]bool{}
	for line := range strings.SplitSeq(table, "\n") {
		if id, ok := strings.CutPrefix(line, "| `"); ok {
			id, _, _ = strings.Cut(id, "`")
			rows[id] = true
		}
	}
	for _, d := range differences() {
		if !rows[d.id] {
			t.Errorf("there is no row for %s", d.id)
		}
		delete(rows, d.id)
	}
	for id := range rows {
		t.Errorf("the row %s is of no difference", id)
	}
}
