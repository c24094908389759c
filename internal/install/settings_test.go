package install

import (
	"context"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/fakeapi"
	"github.com/tulle-mesh/tulle/internal/status"
)

// olderMesh is one whose controllers keep the cluster's DNS themselves.
const olderMesh = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: tulle-controller, namespace: tulle-system, labels: {app.kubernetes.io/name: tulle}}
spec: {template: {spec: {containers: [{name: controller, args: [--zones=old.mesh, --dns-mode=manage, "--dns-config-maps=kube-system/coredns,kube-system/own:Corefile", --log-level=info]}]}}}
`

func TestSettingsAreFoundWhereTheyAre(t *testing.T) {
	for name, tt := range map[string]struct{ values, mode, maps string }{
		"both":    {"{}", "manage", "kube-system/coredns,kube-system/coredns-custom,kube-system/kube-dns,kube-system/node-local-dns"},
		"print":   {"{zones: [a.mesh], dns: {mode: print, configMaps: [{namespace: dns, name: conf, key: file}]}}", "print", "dns/conf:file"},
		"nothing": {`dns: {mode: "off"}`, "off", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := render(t, tt.values)
			got, err := r.Settings()
			if err != nil || got["dns-mode"] != tt.mode || got["dns-config-maps"] != tt.maps || got["zones"] == "" || got["engine"] != "tulle" {
				t.Errorf("%v, %v", got, err)
			}
			if has := deploymentOf(r.Objects, "tulle-dns") != nil; has == (tt.mode == "off") {
				t.Errorf("there is a Deployment: %v", has)
			}
			i, _, _ := newInstaller(t)
			if err := i.Install(t.Context(), Options{Values: parse(t, tt.values), SkipChecks: true, NoWait: true}); err != nil {
				t.Fatal(err)
			}
			installed, err := SettingsOf(t.Context(), i.Cluster, "tulle-system")
			if err != nil || installed["dns-mode"] != tt.mode || installed["dns-config-maps"] != tt.maps {
				t.Errorf("of the installed mesh: %v, %v", installed, err)
			}
		})
	}
	i, s, _ := newInstaller(t)
	if got, err := SettingsOf(t.Context(), i.Cluster, "tulle-system"); got != nil || err != nil {
		t.Errorf("of nothing: %v, %v", got, err)
	}
	s.Put(fakeapi.Parse(olderMesh)[0])
	if got, err := SettingsOf(t.Context(), i.Cluster, "tulle-system"); err != nil || got["dns-mode"] != "manage" || got["zones"] != "old.mesh" || len(got.List("dns-config-maps")) != 2 {
		t.Errorf("of an older version: %v, %v", got, err)
	}
}

const blockThere = `
apiVersion: v1
kind: ConfigMap
metadata: {name: own, namespace: kube-system}
data: {Corefile: ".:53 {\n}\n# BEGIN tulle tulle-system mesh: kept by tulle, changes between these lines are undone\nmesh:53 {\n}\n# END tulle tulle-system\n"}
`

// The block is taken out of the ConfigMaps that the mesh was told of, whoever kept it: also by an older version, and when
// dns.mode was turned off since, which leaves it where it is.
func TestUninstallRestoresDNSWhoeverKeptIt(t *testing.T) {
	own := "dns: {mode: %s, configMaps: [{namespace: kube-system, name: coredns}, {namespace: kube-system, name: own, key: Corefile}]}"
	for name, prepare := range map[string]func(*testing.T, *Installer, *fakeapi.Server){
		"an older version": func(_ *testing.T, _ *Installer, s *fakeapi.Server) { s.Put(fakeapi.Parse(olderMesh)[0]) },
		"now off": func(t *testing.T, i *Installer, _ *fakeapi.Server) {
			if err := i.Install(t.Context(), Options{Values: parse(t, strings.Replace(own, "%s", `"off"`, 1))}); err != nil {
				t.Fatal(err)
			}
		},
		"kept": func(t *testing.T, i *Installer, s *fakeapi.Server) {
			if err := i.Install(t.Context(), Options{Values: parse(t, strings.Replace(own, "%s", "manage", 1))}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			i, s, _ := newInstaller(t)
			prepare(t, i, s)
			s.Put(fakeapi.Parse(blockThere)[0])
			restore, err := i.restoreDNS(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := restore(t.Context()); err != nil {
				t.Fatal(err)
			}
			if text := s.Get("configmaps", "kube-system", "own")["data"].(map[string]any)["Corefile"].(string); strings.Contains(text, "tulle") {
				t.Errorf("left:\n%s", text)
			}
		})
	}
}

// A mesh of an older version has nothing to stop but the controllers.
func TestUninstallOfAnOlderVersion(t *testing.T) {
	i, s, _ := newInstaller(t)
	s.OnWrite = func(string, fakeapi.Object) {}
	s.Put(fakeapi.Parse(olderMesh)[0])
	if err := i.Uninstall(t.Context(), UninstallOptions{Force: true, RestoreDNS: func(context.Context) error { return nil }}); err != nil {
		t.Fatal(err)
	}
	if s.Get("deployments", "tulle-system", "tulle-controller") != nil {
		t.Error("the controllers are still there")
	}
}

// What was found by a pod that is gone, or that nobody names, says nothing about the DNS of now.
func TestOnlyThePodThatKeepsTheDNSIsBelieved(t *testing.T) {
	i, s, _ := newInstaller(t)
	pod := func(name, more string) {
		s.Put(fakeapi.Parse("{apiVersion: v1, kind: Pod, metadata: {name: " + name + ", namespace: tulle-system" + more + "}}")[0])
	}
	pod("c-1", "")
	pod("d-1", "")
	pod("d-2", `, deletionTimestamp: "2026-01-01T00:00:00Z"`)
	for writer, want := range map[string]string{"": "nobody has looked", "d-1": "", "d-2": "is gone", "d-3": "is gone"} {
		putStatus(s, status.Leader{Pod: "c-1", DNS: &status.DNS{Mode: "manage", State: "ok", Writer: writer}})
		_, missing, err := i.dns(t.Context())
		if err != nil || want == "" && missing != "" || !strings.Contains(missing, want) {
			t.Errorf("%q: %q, %v", writer, missing, err)
		}
	}
	putStatus(s, status.Leader{Pod: "c-1", DNS: &status.DNS{Mode: "off", State: "off"}})
	if _, missing, err := i.dns(t.Context()); missing == "" || err != nil {
		t.Errorf("off, where it is not to be: %q, %v", missing, err)
	}
}
