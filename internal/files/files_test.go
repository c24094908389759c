package files

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/internal/controller"
	"github.com/tulle-mesh/tulle/internal/problem"
)

const web = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}, {name: admin, port: 81}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop, labels: {app: web}}
spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
status: {podIP: 127.1.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {app: web}}
spec: {containers: [{name: c, ports: [{name: http, containerPort: 8081}]}]}
status: {podIP: 127.1.0.2, conditions: [{type: Ready, status: "False"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: other, namespace: shop, labels: {app: other}}
status: {podIP: 127.1.0.3}
---
apiVersion: split.smi-spec.io/v1alpha4
kind: TrafficSplit
metadata: {name: web, namespace: shop}
spec: {service: web, backends: [{service: web, weight: 1}]}
`

func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		write(t, filepath.Join(dir, name), content)
	}
	return dir
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestEndpointsOfPods(t *testing.T) {
	s, err := Open(folder(t, map[string]string{"a/web.yaml": web}))
	if err != nil {
		t.Fatal(err)
	}
	r := s.Snapshot().Resources
	var got []string
	for _, slice := range r.EndpointSlices {
		e := slice.Endpoints[0]
		line := slice.Name + " " + e.Addresses[0]
		if !*e.Conditions.Ready {
			line += " unready"
		}
		for _, p := range slice.Ports {
			line += " " + *p.Name + "=" + string(rune('0'+*p.Port%10))
		}
		got = append(got, line)
	}
	want := []string{"web-web-0 127.1.0.1 http=0 admin=1", "web-web-1 127.1.0.2 unready http=1 admin=1"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("slices (-want +got):\n%s", d)
	}
	if len(r.Namespaces) != 1 || r.Namespaces[0].Name != "shop" {
		t.Errorf("namespaces %v, want shop's", r.Namespaces)
	}
}

// What is wrong in a file is said with its place, and the rest is used.
func TestBadFiles(t *testing.T) {
	dir := folder(t, map[string]string{
		"bad.yaml": "kind: [\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n---\njust text\n---\napiVersion: v1\nkind: Service\n" +
			"---\napiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: 7}\n" +
			"---\napiVersion: v1\nkind: Service\nmetadata: {name: u}\nspec: {portz: []}\n" +
			"---\napiVersion: split.smi-spec.io/v1alpha4\nkind: TrafficSplit\nmetadata: {name: w, namespace: shop}\nspec: {service: web, backends: [{service: a, weight: 0.5}]}\n" +
			"---\n# only a comment\n",
		"web.yaml":        web,
		"zz-web.yaml":     web,
		"notes.txt":       "not mine",
		".hidden/x.yaml":  web,
		"list.json":       `{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "l"}, "spec": {"ports": [{"port": 1}]}}]}`,
		"empty.yaml":      "",
		"crlf/space.yaml": strings.ReplaceAll(strings.ReplaceAll(web, "shop", "crlf"), "\n", "\r\n"),
	})
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	r := s.Snapshot().Resources
	var got []string
	for _, p := range r.Undecodable {
		got = append(got, p.Object.Kind+" "+p.Object.Name+" "+string(p.Reason))
	}
	slices.Sort(got)
	want := []string{
		"ConfigMap c UnknownKind", "File bad.yaml#1 UnreadableFile", "File bad.yaml#3 UnreadableFile", "File bad.yaml#4 InvalidObject",
		"Pod other DuplicateObject", "Pod web-0 DuplicateObject", "Pod web-1 DuplicateObject",
		"Service s InvalidObject", "Service u InvalidObject", "Service web DuplicateObject", "TrafficSplit w InvalidWeight", "TrafficSplit web DuplicateObject",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("problems (-want +got):\n%s", d)
	}
	var services []string
	for _, s := range r.Services {
		services = append(services, s.Namespace+"/"+s.Name)
	}
	if d := cmp.Diff([]string{"crlf/web", "default/l", "shop/web"}, services); d != "" {
		t.Errorf("services (-want +got):\n%s", d)
	}
}

// What a pod is, is told by its address; the loopback's first one is every program's.
func TestPodsOfTheLoopback(t *testing.T) {
	s, err := Open(folder(t, map[string]string{"web.yaml": web + "---\n" + strings.NewReplacer("web-0", "web-2", "127.1.0.1", "127.0.0.1").Replace(web[strings.Index(web, "apiVersion: v1\nkind: Pod"):])}))
	if err != nil {
		t.Fatal(err)
	}
	r := s.Snapshot().Resources
	got := map[string]string{}
	for _, p := range r.Pods {
		got[p.Name] = p.Status.PodIP + " on " + p.Spec.NodeName
	}
	want := map[string]string{
		"other": "127.1.0.3 on standalone", "web-0": "127.1.0.1 on standalone", "web-1": "127.1.0.2 on standalone", "web-2": " on standalone",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("pods (-want +got):\n%s", d)
	}
	var endpoints []string
	for _, slice := range r.EndpointSlices {
		endpoints = append(endpoints, slice.Endpoints[0].Addresses[0])
	}
	if d := cmp.Diff([]string{"127.1.0.1", "127.1.0.2", "127.0.0.1"}, endpoints); d != "" {
		t.Errorf("endpoints (-want +got):\n%s", d)
	}
}

// All versions of a kind are one object, as in a cluster.
func TestOneObjectInTwoVersions(t *testing.T) {
	older := strings.ReplaceAll(web[strings.LastIndex(web, "---"):], "v1alpha4", "v1alpha2")
	s, err := Open(folder(t, map[string]string{"web.yaml": web, "web-old.yaml": older}))
	if err != nil {
		t.Fatal(err)
	}
	r := s.Snapshot().Resources
	if len(r.SMI.TrafficSplits) != 1 || len(r.Undecodable) != 1 || r.Undecodable[0].Reason != problem.DuplicateObject {
		t.Errorf("%d splits and problems %v, want one and DuplicateObject", len(r.SMI.TrafficSplits), r.Undecodable)
	}
}

// A pipe among the files is not waited for.
func TestNoRegularFile(t *testing.T) {
	dir := folder(t, map[string]string{"web.yaml": web})
	if err := os.Mkdir(filepath.Join(dir, "folder.yaml"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := makePipe(filepath.Join(dir, "pipe.yaml")); err != nil {
		t.Skip("no pipes here:", err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "link.yaml")); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if r := s.Snapshot().Resources; len(r.Services) != 1 || len(r.Undecodable) != 0 {
		t.Errorf("%d services, problems %v", len(r.Services), r.Undecodable)
	}
}

func TestNoFolder(t *testing.T) {
	if _, err := Open(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a folder that isn't there was opened")
	}
	if _, err := Open(filepath.Join(folder(t, map[string]string{"f.yaml": web}), "f.yaml")); err == nil || !strings.Contains(err.Error(), "not a folder") {
		t.Errorf("a file was opened as a folder: %v", err)
	}
}

// Files are read again when they change: written in place, renamed over as editors do, in new folders, removed.
func TestChanges(t *testing.T) {
	dir := folder(t, map[string]string{"web.yaml": web})
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	<-s.Changed()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	awaitServices(t, s, "web")

	write(t, filepath.Join(dir, ".web.yaml.tmp"), strings.ReplaceAll(web, "name: web,", "name: renamed,"))
	if err := os.Rename(filepath.Join(dir, ".web.yaml.tmp"), filepath.Join(dir, "web.yaml")); err != nil {
		t.Fatal(err)
	}
	awaitServices(t, s, "renamed")
	write(t, filepath.Join(dir, "deep", "er", "more.yaml"), strings.ReplaceAll(web, "name: web,", "name: deep,"))
	awaitServices(t, s, "deep", "renamed")
	if err := os.Remove(filepath.Join(dir, "web.yaml")); err != nil {
		t.Fatal(err)
	}
	awaitServices(t, s, "deep")

	// A folder that goes away, as when another commit is checked out, changes nothing until it is back.
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	awaitProblem(t, s, problem.UnreadableFile)
	awaitServices(t, s, "deep")
	write(t, filepath.Join(dir, "new.yaml"), strings.ReplaceAll(web, "name: web,", "name: back,"))
	awaitServices(t, s, "back")
	if p := s.Snapshot().Resources.Undecodable; len(p) > 0 {
		t.Errorf("the folder is back, but %v", p)
	}
	write(t, filepath.Join(dir, "new.yaml"), strings.ReplaceAll(web, "name: web,", "name: watched,"))
	awaitServices(t, s, "watched")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func awaitServices(t *testing.T, s *Source, want ...string) {
	t.Helper()
	await(t, s, func(c controller.Snapshot) error {
		var got []string
		for _, o := range c.Resources.Services {
			got = append(got, o.Name)
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("services %v, want %v", got, want)
		}
		return nil
	})
}

func awaitProblem(t *testing.T, s *Source, want problem.Reason) {
	t.Helper()
	await(t, s, func(c controller.Snapshot) error {
		if !slices.ContainsFunc(c.Resources.Undecodable, func(p problem.Problem) bool { return p.Reason == want }) {
			return fmt.Errorf("problems %v, want %s", c.Resources.Undecodable, want)
		}
		return nil
	})
}

func await(t *testing.T, s *Source, holds func(controller.Snapshot) error) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		err := holds(s.Snapshot())
		if err == nil {
			return
		}
		select {
		case <-s.Changed():
		case <-deadline:
			t.Fatal(err)
		}
	}
}
