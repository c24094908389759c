package traefik_test

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"crypto/x509"

	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/topology"
	"github.com/tulle-mesh/tulle/internal/traefik"
)

// TestInstalledTraefik starts stock Traefik with the static configuration that the chart installs, with all its entry
// points, and gives it its configuration over mTLS. It is ready when it has that, and not before.
func TestInstalledTraefik(t *testing.T) {
	tulle, stockV2 := binary(t, "TULLE"), binary(t, "TRAEFIK_V2")
	dir := t.TempDir()
	var config atomic.Pointer[[]byte]
	var strangers atomic.Int32
	controllers := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) == 0 || r.URL.Path != "/traefik" {
			strangers.Add(1)
		}
		if now := config.Load(); now != nil {
			_, _ = w.Write(*now)
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	controllers.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	controllers.StartTLS()
	defer controllers.Close()
	writePair(t, dir, controllers.Certificate())
	static := installed(t, tulle, dir, controllers.URL)
	if err := os.WriteFile(filepath.Join(dir, "traefik.yaml"), static, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, stockV2, "--configFile="+filepath.Join(dir, "traefik.yaml"))
	at := "http://" + loopback("2") + ":15090"
	await(t, "Traefik lives", func() error { return status(t, at+"/ping", http.StatusOK) })
	if err := status(t, at+traefik.ReadyPath, http.StatusNotFound); err != nil {
		t.Errorf("before it has a configuration: %v", err)
	}
	b := newBackends(t)
	backend := netip.MustParseAddrPort(loopback("10") + ":8080")
	b.add(backend.String(), false)
	rendered := renderWeb(t, backend)
	config.Store(&rendered)
	await(t, "Traefik is ready", func() error { return status(t, at+traefik.ReadyPath, http.StatusOK) })
	if err := status(t, "http://"+loopback("2")+":20007/", http.StatusOK); err != nil {
		t.Errorf("the service: %v", err)
	}
	if n := strangers.Load(); n > 0 {
		t.Errorf("%d requests were not as they should be", n)
	}
}

// installed is the static configuration that the chart installs, on addresses of this test.
func installed(t *testing.T, tulle, dir, url string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), tulle, "install", "--dry-run", "--skip-crds", "--set", "proxy.engine=traefik")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for doc := range strings.SplitSeq(string(out), "\n---\n") {
		var m struct {
			Metadata struct{ Name string }
			Data     map[string]string
		}
		if err := yaml.Unmarshal([]byte(doc), &m); err != nil {
			t.Fatal(err)
		}
		text := m.Data["traefik.yaml"]
		if m.Metadata.Name != "tulle-traefik" || text == "" {
			continue
		}
		for from, to := range map[string]string{
			`address: ":`: `address: "` + loopback("2") + `:`,
			"https://tulle-controller.tulle-system.svc:15011": url,
			"/etc/tulle/ca/ca.crt":                            filepath.Join(dir, "ca.crt"),
			"/etc/tulle/client/":                              dir + "/",
		} {
			if !strings.Contains(text, from) {
				t.Fatalf("the static configuration has no %s:\n%s", from, text)
			}
			text = strings.ReplaceAll(text, from, to)
		}
		return []byte(text)
	}
	t.Fatalf("there is no ConfigMap tulle-traefik:\n%s", out)
	return nil
}

// writePair writes the files that a Traefik pod mounts.
func writePair(t *testing.T, dir string, server *x509.Certificate) {
	t.Helper()
	pair := certificate(t)
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"ca.crt": {Type: "CERTIFICATE", Bytes: server.Raw}, "tls.crt": {Type: "CERTIFICATE", Bytes: pair.Certificate[0]}, "tls.key": {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// renderWeb is a mesh of one service, on the entry point tcp-20007.
func renderWeb(t *testing.T, backend netip.AddrPort) []byte {
	t.Helper()
	web := topology.Name{Namespace: "shop", Name: "web"}
	topo := topology.Topology{Services: []topology.Service{{Name: web, Ports: []topology.Port{{
		Number: 80, Protocol: topology.HTTP, Endpoints: []topology.Endpoint{{Address: backend.Addr(), Port: int32(backend.Port())}},
		Routes: []topology.Route{{Backends: []topology.Backend{{Service: web, Port: 80, Weight: 1, Scheme: topology.SchemeHTTP}}}},
	}}}}}
	assigned := shadow.Assigned{Units: map[shadow.Unit]shadow.Assignment{{Name: web}: {
		Unit: shadow.Unit{Name: web}, TargetPorts: map[shadow.PortKey]int32{{Number: 80}: 20007},
	}}}
	c, problems := traefik.Render(traefik.Config{Zones: []string{"mesh"}, ReadyOn: "traefik"}, topo, assigned)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	raw, err := traefik.Encode(c)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func status(t *testing.T, url string, want int) error {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, answer.Body)
	if answer.StatusCode != want {
		return fmt.Errorf("%s answers %s", url, answer.Status)
	}
	return nil
}
