package cluster

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOptions(t *testing.T) {
	o := Options{}
	if err := o.complete(); err != nil {
		t.Fatal(err)
	}
	if !validName.MatchString(o.Name) || o.Nodes != 2 || o.Profile != Quick || o.ProxyMode != "nftables" {
		t.Errorf("defaults: %+v", o)
	}
	other := Options{}
	if err := other.complete(); err != nil || other.Name == o.Name {
		t.Errorf("two clusters are called %q and %q, %v", o.Name, other.Name, err)
	}
	for _, bad := range []Options{{Name: "a/b"}, {Name: "ninechars"}, {Nodes: 100}, {Nodes: -1}, {ProxyMode: "ipvs"}, {Profile: "slow"}} {
		if err := bad.complete(); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

// The honest profile must not set what it is honest about.
func TestProfiles(t *testing.T) {
	for _, tt := range []struct {
		profile  Profile
		has, not []string
	}{
		{Quick, []string{"syncFrequency: 2s", "kubeAPIQPS", "minSyncPeriod: 100ms", "reload 2s"}, nil},
		{Honest, []string{"reload\n", "replicas: 2"}, []string{"syncFrequency", "kubeAPIQPS", "minSyncPeriod", "reload 2s"}},
	} {
		t.Run(string(tt.profile), func(t *testing.T) {
			dir := t.TempDir()
			c := &Cluster{o: Options{Profile: tt.profile, ProxyMode: "nftables"}, pki: &pki{dir: dir}}
			s := nodeSpec{Name: "n1", Dir: dir}
			if err := os.MkdirAll(s.own("/etc/cni/net.d"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(c.configureNode(1, s), c.renderDNS(filepath.Join(dir, "coredns.yaml"))); err != nil {
				t.Fatal(err)
			}
			var all strings.Builder
			for _, f := range []string{"kubelet.yaml", "kube-proxy.yaml", "coredns.yaml"} {
				b, err := os.ReadFile(filepath.Join(dir, f))
				if err != nil {
					t.Fatal(err)
				}
				all.Write(b)
			}
			for _, s := range tt.has {
				if !strings.Contains(all.String(), s) {
					t.Errorf("%q is not set", s)
				}
			}
			for _, s := range tt.not {
				if strings.Contains(all.String(), s) {
					t.Errorf("%q is set", s)
				}
			}
		})
	}
}

func TestNameIsTakenOnce(t *testing.T) {
	const name = "locktest"
	first, err := lockName(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockName(name); !errors.Is(err, errTaken) {
		t.Errorf("second lock: %v, want %v", err, errTaken)
	}
	first.release()
	again, err := lockName(name)
	if err != nil {
		t.Fatal(err)
	}
	again.release()
}

// What is in the cache is used only for the very sources that it was built from.
func TestSources(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module x\n\nrequire (\n\texample.com/thing-other v1.0.0\n\texample.com/thing v1.2.3\n)\n")
	write("go.sum", "")
	write("main.go", "package main")
	m := module{dir: dir, path: "example.com/thing"}
	version, before, err := m.sources()
	if err != nil || version != "v1.2.3" {
		t.Fatalf("version %q, %v", version, err)
	}
	write("main.go", "package main // other")
	if _, after, err := m.sources(); err != nil || after == before {
		t.Errorf("changed sources count as the same: %q, %v", after, err)
	}
	if _, _, err := (module{dir: dir, path: "example.com/none"}).sources(); err == nil {
		t.Error("a dependency without a version is taken")
	}
}
