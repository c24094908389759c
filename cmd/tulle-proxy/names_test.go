//go:build linux

package main

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/protobuf/proto"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

// TestNames: the view of the mesh DNS beside another proxy follows the config; what has no address is not open.
func TestNames(t *testing.T) {
	resource := func(name string, m proto.Message) configv1.Resource {
		t.Helper()
		r, err := configv1.NewResource(name, m)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	web := resource("shop/web", &configv1.Service{Namespace: "shop", Name: "web", Addresses: []string{"10.0.0.1"}})
	pod := resource("shop/db/db-0", &configv1.Service{Namespace: "shop", Name: "db", Pod: "db-0"})
	n := newNames()
	if s, open := n.Service("shop", "web", ""); s != nil || open || n.Mesh() != nil || n.Endpoints("shop", "web") != nil {
		t.Error("it knows something before the first config")
	}
	before := n.now.Load()
	n.Apply(configv1.Update{Set: []configv1.Resource{
		web, pod, resource("mesh", &configv1.Mesh{Zones: []string{"mesh"}}), resource("shop/web", &configv1.Endpoints{Namespace: "shop", Name: "web"}),
	}})
	if s, open := n.Service("shop", "web", ""); s.GetName() != "web" || !open {
		t.Errorf("web is %v, open %v", s, open)
	}
	if s, open := n.Service("shop", "db", "db-0"); s.GetPod() != "db-0" || open {
		t.Errorf("the pod without an address is %v, open %v", s, open)
	}
	if n.Mesh().GetZones()[0] != "mesh" || n.Endpoints("shop", "web") == nil {
		t.Error("the zones or the endpoints are missing")
	}
	if len(before.services) != 0 {
		t.Error("a state that is in use was changed")
	}
	n.Apply(configv1.Update{Removed: []configv1.Key{web.Key, {Type: configv1.EndpointsType, Name: "shop/web"}}})
	if s, _ := n.Service("shop", "web", ""); s != nil || n.Endpoints("shop", "web") != nil {
		t.Error("what was removed is still there")
	}
}

// TestNamesAlone runs the mesh DNS beside another proxy: it answers, opens no port of a service, is ready again without a
// controller, and serves on for a while when it is told to stop.
func TestNamesAlone(t *testing.T) {
	c := startController(t)
	target := freePorts(t, 1)[0]
	c.publish(t, true, service{name: "web", target: target, backend: "127.0.0.1:9"})
	dir := t.TempDir()
	p := startProxy(t, c, dir, "--stop-wait=3s", "--stop-lag=0s", "dns")
	p.waitReady()
	address := lookup(t, p.dns, "web.shop.mesh")
	if address == "" {
		t.Fatal("the mesh name has no address")
	}
	if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", target)); err != nil {
		t.Errorf("the service's port is taken: %v", err)
	} else {
		l.Close()
	}
	if code, body, err := get("http://" + p.metrics + "/metrics"); err != nil || code != http.StatusOK || !strings.Contains(body, "tulle_dns_responses_total") {
		t.Errorf("metrics: %d %v", code, err)
	}
	waitStored(t, dir)
	c.stop()
	p.kill()
	p = startProxy(t, c, dir, "--stop-wait=3s", "--stop-lag=0s", "dns")
	p.waitReady()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is not ready", func() bool { return p.readiness() == http.StatusServiceUnavailable })
	if again := lookup(t, p.dns, "web.shop.mesh"); again != address {
		t.Errorf("without a controller, when it is told to stop, the name is %q, want %q", again, address)
	}
	if err := <-p.ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
	p.ended <- nil
}
