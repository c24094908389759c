//go:build linux

package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"text/template"
)

// Peers' configs keep connections on both sides, as the data plane does, and add what it adds.
//
//go:embed peers
var configs embed.FS

// peer is another proxy: its program, its config (of TCP and UDP, too), and the arguments that name the config.
type peer struct {
	program string
	file    string
	args    func(file, dir string) []string
	not     string // a protocol that it can't carry
}

func peers(o options) map[string]peer {
	traefik := o.traefik
	if traefik == "" {
		traefik = "traefik"
	}
	return map[string]peer{
		"nginx":   {"nginx", "nginx.conf", func(file, dir string) []string { return []string{"-c", file, "-p", dir} }, ""},
		"haproxy": {"haproxy", "haproxy.cfg", func(file, _ string) []string { return []string{"-db", "-q", "-f", file} }, "udp"},
		"traefik": {traefik, "traefik.yaml", func(file, _ string) []string { return []string{"--configFile=" + file} }, ""},
	}
}

// startPeer starts another proxy with a config written from its template.
func startPeer(ctx context.Context, children *sync.WaitGroup, name string, s spec, o options) (*target, error) {
	p, ok := peers(o)[name]
	if !ok {
		return nil, fmt.Errorf("there is no target %q", name)
	}
	path, err := exec.LookPath(p.program)
	if err != nil || s.Protocol == p.not || name == "nginx" && s.Protocol != "http" && !streams4nginx() {
		return nil, exec.ErrNotFound
	}
	address, err := freeAddress(ctx, s.Protocol)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, err
	}
	clean := func() { _ = os.RemoveAll(dir) }
	if err := writeConfigs(dir, name, settings{s, dir, address, streamModule}); err != nil {
		clean()
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, p.args(filepath.Join(dir, p.file), dir)...) //nolint:gosec // one of the peers
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		clean()
		return nil, err
	}
	children.Go(func() {
		_ = cmd.Wait() // until it is killed
		clean()
	})
	return &target{name: name, address: address, pid: cmd.Process.Pid}, nil
}

// settings are what configs are written from.
type settings struct {
	spec

	Dir, Address string
	StreamModule string
}

// writeConfigs fills in the templates of a peer.
func writeConfigs(dir, peer string, values settings) error {
	templates, err := template.ParseFS(configs, "peers/"+peer+"*")
	if err != nil {
		return err
	}
	for _, t := range templates.Templates() {
		f, err := os.Create(filepath.Join(dir, t.Name())) //nolint:gosec // a folder of its own
		if err != nil {
			return err
		}
		if err := errors.Join(t.Execute(f, values), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// streamModule is where Debian has nginx's module for TCP and UDP.
const streamModule = "/usr/lib/nginx/modules/ngx_stream_module.so"

func streams4nginx() bool {
	_, err := os.Stat(streamModule)
	return err == nil
}

func freeAddress(ctx context.Context, protocol string) (string, error) {
	if protocol == "udp" {
		c, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		defer c.Close()
		return c.LocalAddr().String(), nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
