package files

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/topology"
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

func TestNoFolder(t *testing.T) {
	if _, err := Open(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a folder that isn't there was opened")
	}
	if _, err := Open(filepath.Join(folder(t, map[string]string{"f.yaml": web}), "f.yaml")); err == nil || !strings.Contains(err.Error(), "is a file") {
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
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func awaitServices(t *testing.T, s *Source, want ...string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	var got []string
	for {
		got = nil
		for _, o := range s.Snapshot().Resources.Services {
			got = append(got, o.Name)
		}
		if slices.Equal(got, want) {
			return
		}
		select {
		case <-s.Changed():
		case <-deadline:
			t.Fatalf("services %v, want %v", got, want)
		}
	}
}

func unit(name string) shadow.Unit {
	return shadow.Unit{Name: topology.Name{Namespace: "shop", Name: name}}
}

func units(names ...string) topology.Topology {
	var t topology.Topology
	for _, n := range names {
		t.Services = append(t.Services, topology.Service{Name: topology.Name{Namespace: "shop", Name: n}, Ports: []topology.Port{
			{Number: 53, Protocol: topology.TCP}, {Number: 53, Protocol: topology.UDP}, {Number: 8080, Protocol: topology.HTTP},
		}})
	}
	return t
}

func TestAssign(t *testing.T) {
	names := []string{"a", "b", "c", "a-b"}
	all := Assign(units(names...), Loopback{FirstPort: 1024})
	seen := map[netip.Addr]bool{}
	for _, n := range names {
		a := all.Units[unit(n)]
		if len(a.Addresses) != 1 || a.Bind != a.Addresses[0] || !a.Bind.IsLoopback() || seen[a.Bind] {
			t.Errorf("%s: address %v, bound %v: want one of its own", n, a.Addresses, a.Bind)
		}
		seen[a.Bind] = true
		if p := a.TargetPorts[shadow.PortKey{Number: 8080}]; p != 8080 {
			t.Errorf("%s: port 8080 is served on %d", n, p)
		}
		tcp, udp := a.TargetPorts[shadow.PortKey{Number: 53}], a.TargetPorts[shadow.PortKey{Number: 53, UDP: true}]
		if tcp < 1024 || udp < 1024 {
			t.Errorf("%s: port 53 is served on %d and %d, which takes root", n, tcp, udp)
		}
		if alone := Assign(units(n), Loopback{FirstPort: 1024}).Units[unit(n)]; alone.Bind != a.Bind {
			t.Errorf("%s: address %v alone, %v with others", n, alone.Bind, a.Bind)
		}
	}
	if p := Assign(units("a"), Loopback{}).Units[unit("a")].TargetPorts[shadow.PortKey{Number: 53}]; p != 53 {
		t.Errorf("as root port 53 is served on %d", p)
	}
}

func TestAssignOnOneAddress(t *testing.T) {
	all := Assign(units("a", "b", "c"), Loopback{FirstPort: 1024, OneAddress: true})
	seen := map[int32]bool{}
	for u, a := range all.Units {
		if a.Bind.String() != "127.0.0.1" {
			t.Errorf("%v binds %v", u, a.Bind)
		}
		for _, p := range a.TargetPorts {
			if seen[p] || p < 1024 {
				t.Errorf("%v: port %d is taken already", u, p)
			}
			seen[p] = true
		}
	}
}
