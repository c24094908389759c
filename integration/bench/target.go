//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/proxy/meter"
)

// target is a proxy under load, in a process of its own.
type target struct {
	name, address string
	pid           int
	results       []result
}

// roles are what children of this program do. They print their address, and serve until they are killed.
var roles = map[string]func(ctx context.Context, args []string) error{
	"backend": func(_ context.Context, args []string) error {
		size, err := strconv.Atoi(args[0])
		if err != nil {
			return err //nolint:wrapcheck // says all
		}
		l, err := listen()
		if err != nil {
			return err
		}
		return backend(l, size)
	},
	"tulle": serveTulle,
	"httputil": func(_ context.Context, args []string) error {
		l, err := listen()
		if err != nil {
			return err
		}
		p := &httputil.ReverseProxy{
			Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: args[0]}); r.SetXForwarded() },
			Transport: &http.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true},
		}
		return (&http.Server{Handler: p, ReadHeaderTimeout: 10 * time.Second}).Serve(l) //nolint:wrapcheck // says all
	},
}

func listen() (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err == nil {
		fmt.Println(l.Addr())
	}
	return l, err //nolint:wrapcheck // says all
}

// opened tells the address that the proxy's only listener got.
type opened struct{ proxy.Kernel }

func (o opened) Listen(ctx context.Context, _ string) (net.Listener, error) {
	l, err := o.Kernel.Listen(ctx, "127.0.0.1:0")
	if err == nil {
		fmt.Println(l.Addr())
	}
	return l, err //nolint:wrapcheck // says all
}

// serveTulle is the data plane with all of its checks, limits and metrics.
func serveTulle(ctx context.Context, args []string) error {
	c := proxy.Config{Sockets: opened{}, Registerer: prometheus.NewRegistry()}
	if args[1] == "true" {
		f, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			return err //nolint:wrapcheck // says all
		}
		c.AccessLog = meter.NewAccessLog(f)
	}
	p := proxy.New(c)
	up := netip.MustParseAddrPort(args[0])
	var u configv1.Update
	for name, m := range map[string]proto.Message{
		"shop/web": &configv1.Endpoints{Namespace: "shop", Name: "web", Ports: []*configv1.EndpointPort{{
			Port: 80, Endpoints: []*configv1.Endpoint{{Address: up.Addr().String(), Port: uint32(up.Port()), Pod: "web-1"}},
		}}},
		"shop/web/": &configv1.Service{Namespace: "shop", Name: "web", BindAddress: "127.0.0.1", Ports: []*configv1.Port{{
			Port: 80, Protocol: configv1.Protocol_PROTOCOL_HTTP, TargetPort: 20001,
			Routes: []*configv1.Route{{Backends: []*configv1.Backend{{Service: "shop/web", Port: 80, Weight: 1}}}},
		}}},
		"me": &configv1.Proxy{Callers: []*configv1.Caller{{
			Addresses: []string{"127.0.0.1"}, Namespace: "shop", Pod: "client-1", Workload: "deployment/client",
		}}},
	} {
		r, err := configv1.NewResource(strings.TrimSuffix(name, "/"), m)
		if err != nil {
			return err //nolint:wrapcheck // says all
		}
		u.Set = append(u.Set, r)
	}
	if refused := p.Apply(u); len(refused) > 0 {
		return fmt.Errorf("refused: %v", refused)
	}
	return p.Run(ctx) //nolint:wrapcheck // says all
}

// start starts the backend and all proxies; they end with ctx.
func start(ctx context.Context, o options, children *sync.WaitGroup) ([]*target, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err //nolint:wrapcheck // says all
	}
	up, err := child(ctx, children, self, "backend", strconv.Itoa(o.size))
	if err != nil {
		return nil, err
	}
	tulle, err := child(ctx, children, self, "tulle", up.address, strconv.FormatBool(o.log))
	if err != nil {
		return nil, err
	}
	plain, err := child(ctx, children, self, "httputil", up.address)
	if err != nil {
		return nil, err
	}
	all := []*target{tulle, plain}
	nginx, err := startNginx(ctx, children, up.address, o.log)
	switch {
	case errors.Is(err, exec.ErrNotFound):
		fmt.Fprintln(os.Stderr, "nginx is not installed: no ratios")
	case err != nil:
		return nil, err
	default:
		all = append([]*target{nginx}, all...)
	}
	return all, nil
}

// child starts a process that prints its address.
func child(ctx context.Context, children *sync.WaitGroup, self, role string, args ...string) (*target, error) {
	cmd := exec.CommandContext(ctx, self, append([]string{role}, args...)...) //nolint:gosec // this program
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err //nolint:wrapcheck // says all
	}
	if err := cmd.Start(); err != nil {
		return nil, err //nolint:wrapcheck // says all
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("%s said nothing: %w", role, err)
	}
	children.Go(func() { _ = cmd.Wait() }) // until it is killed
	return &target{name: role, address: strings.TrimSpace(line), pid: cmd.Process.Pid}, nil
}

// nginxConfig keeps connections on both sides, as the data plane does, and adds what it adds.
const nginxConfig = `daemon off;
master_process off;
pid %[1]s/pid;
error_log stderr crit;
events { worker_connections 4096; }
http {
  log_format json escape=json '{"time":"$time_iso8601","client":"$remote_addr","method":"$request_method","host":"$host","path":"$uri","status":$status,"bytes_out":$body_bytes_sent,"seconds":$request_time,"endpoint":"$upstream_addr"}';
  access_log %[4]s;
  client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
  keepalive_requests 1000000000;
  tcp_nodelay on;
  upstream web { server %[2]s; keepalive 1024; keepalive_requests 1000000000; }
  server {
    listen %[3]s;
    location / {
      proxy_pass http://web;
      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_set_header Connection "";
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-Host $http_host;
    }
  }
}
`

func startNginx(ctx context.Context, children *sync.WaitGroup, up string, log bool) (*target, error) {
	path, err := exec.LookPath("nginx")
	if err != nil {
		return nil, err //nolint:wrapcheck // the caller asks what it is
	}
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, err //nolint:wrapcheck // says all
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err //nolint:wrapcheck // says all
	}
	address := l.Addr().String()
	l.Close()
	accessLog := "off"
	if log {
		accessLog = "/dev/null json buffer=32k flush=1s"
	}
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, fmt.Appendf(nil, nginxConfig, dir, up, address, accessLog), 0o600); err != nil {
		return nil, err //nolint:wrapcheck // says all
	}
	cmd := exec.CommandContext(ctx, path, "-c", file, "-p", dir)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err //nolint:wrapcheck // says all
	}
	children.Go(func() {
		_ = cmd.Wait() // until it is killed
		_ = os.RemoveAll(dir)
	})
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 500 {
		if c, err := net.Dial("tcp", address); err == nil { //nolint:noctx // the loopback
			c.Close()
			return &target{name: "nginx", address: address, pid: cmd.Process.Pid}, nil
		}
		<-tick.C
	}
	return nil, errors.New("nginx does not listen")
}

// cpu is the time that the process has run so far, to the nanosecond.
func (t *target) cpu() (time.Duration, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", t.pid))
	if err != nil || len(files) == 0 {
		return 0, errors.Join(err, io.ErrUnexpectedEOF)
	}
	var sum time.Duration
	for _, f := range files {
		b, err := os.ReadFile(f) //nolint:gosec // of /proc
		if err != nil {
			continue // the thread has ended
		}
		first, _, _ := strings.Cut(string(b), " ")
		n, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, err //nolint:wrapcheck // says all
		}
		sum += time.Duration(n)
	}
	return sum, nil
}

// rss is the memory of the process in bytes, 0 if it is not known.
func (t *target) rss() int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", t.pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}
