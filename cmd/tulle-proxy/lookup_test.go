//go:build linux

package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// lookup asks the mesh DNS for an address, over UDP and TCP; "" = there is none.
func lookup(t *testing.T, server, name string) string {
	t.Helper()
	var all []string
	for _, network := range []string{"udp", "tcp"} {
		r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, server)
		}}
		addresses, err := r.LookupHost(t.Context(), name+".")
		if err != nil && !strings.Contains(err.Error(), "no such host") {
			t.Errorf("lookup of %s over %s: %v", name, network, err)
		}
		all = append(all, strings.Join(addresses, " "))
	}
	if all[0] != all[1] {
		t.Errorf("%s is %q over UDP and %q over TCP", name, all[0], all[1])
	}
	return all[0]
}

// waitStored waits until the proxy has kept its config.
func waitStored(t *testing.T, dir string) {
	t.Helper()
	eventually(t, "the config is stored", func() bool {
		_, err := os.Stat(filepath.Join(dir, "last-good"))
		return err == nil
	})
}
