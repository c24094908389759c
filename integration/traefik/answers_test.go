package traefik_test

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/traefik/traefik/v2/pkg/config/dynamic"
	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"
)

// world is a fixture whose endpoints live on the loopback, as both engines see it.
type world struct {
	dir         string
	zones       []string
	mode        string
	access      string
	dynamic     []byte
	problems    []byte            // of the rendering, a line each
	calls       []call            // that access control decides on, if the fixture is about that
	entryPoints map[string]string // address by name
}

// TestAnswersAreTheSame runs stock Traefik beside `tulle run` and asks both the same, fixture by fixture. What is
// different by design is in differences_test.go.
func TestAnswersAreTheSame(t *testing.T) {
	tulle, traefik := binary(t, "TULLE"), binary(t, "TRAEFIK_V2")
	worlds := prepare(t, tulle)
	s := startStock(t, traefik, false, allEntryPoints(worlds))
	for _, name := range slices.Sorted(maps.Keys(worlds)) {
		t.Run(name, func(t *testing.T) {
			if elsewhere(name) {
				t.Skip("it has endpoints that are not on the loopback")
			}
			compare(t, tulle, s, worlds[name])
		})
	}
}

// elsewhere are the fixtures with endpoints that have no place on every machine's loopback: they have IPv6.
func elsewhere(name string) bool { return name == "v_dual_stack" || name == "v_refused" }

// TestLoadsInV3: what is rendered for v2 has no errors in v3, if that is told to read rules as v2 does.
func TestLoadsInV3(t *testing.T) {
	if os.Getenv("TRAEFIK_V3") == "" {
		t.Skip("TRAEFIK_V3 names no binary")
	}
	worlds := prepare(t, binary(t, "TULLE"))
	s := startStock(t, binary(t, "TRAEFIK_V3"), true, allEntryPoints(worlds))
	for _, name := range slices.Sorted(maps.Keys(worlds)) {
		t.Run(name, func(t *testing.T) { s.load(t, worlds[name].dynamic) })
	}
}

// binary is a program that integration/traefik.sh built.
func binary(t *testing.T, variable string) string {
	t.Helper()
	path := os.Getenv(variable)
	if path == "" {
		t.Skipf("%s names no binary; integration/traefik.sh builds them", variable)
	}
	return path
}

// prepare renders every fixture with its endpoints moved to the loopback.
func prepare(t *testing.T, tulle string) map[string]*world {
	t.Helper()
	worlds := map[string]*world{}
	for _, glob := range []string{"../../internal/proxyconfig/testdata/*.txtar", "../../internal/traefik/testdata/in/*.txtar"} {
		files, err := filepath.Glob(glob)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", glob, err)
		}
		for _, file := range files {
			worlds[strings.TrimSuffix(filepath.Base(file), ".txtar")] = prepareOne(t, tulle, file)
		}
	}
	return worlds
}

// address is an IPv4 address of a fixture that is no network's.
var address = regexp.MustCompile(`\b\d+\.\d+\.\d+\.\d+\b`)

func prepareOne(t *testing.T, tulle, file string) *world {
	t.Helper()
	a, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var settings struct {
		Zones         []string
		DefaultMode   string
		AccessDefault string
	}
	if err := yaml.Unmarshal(part(a, "config.yaml"), &settings); err != nil {
		t.Fatal(err)
	}
	w := &world{dir: t.TempDir(), zones: settings.Zones, mode: settings.DefaultMode, access: settings.AccessDefault}
	if w.access == "" {
		w.access = "off"
	}
	if len(w.zones) == 0 {
		w.zones = []string{"mesh"}
	}
	for i, z := range w.zones {
		w.zones[i] = strings.ToLower(strings.Trim(z, "."))
	}
	if w.mode == "" {
		w.mode = "http"
	}
	moved, given := map[string]string{}, 0
	next := func() string {
		given++
		return loopback(strconv.Itoa(9 + given))
	}
	objects := address.ReplaceAllStringFunc(string(part(a, "in.yaml")), func(ip string) string {
		if moved[ip] == "" {
			moved[ip] = next()
		}
		return moved[ip]
	})
	calls := address.ReplaceAllStringFunc(string(part(a, "calls")), func(ip string) string { return cmp.Or(moved[ip], ip) })
	callers, addresses := callersOf(calls, next)
	objects += callers
	w.calls = callsOf(t, calls, addresses)
	if err := os.WriteFile(filepath.Join(w.dir, "in.yaml"), []byte(objects), 0o600); err != nil {
		t.Fatal(err)
	}
	w.dynamic = w.render(t, tulle)
	var static struct {
		EntryPoints map[string]struct{ Address string }
	}
	if err := yaml.Unmarshal(w.render(t, tulle, "--static"), &static); err != nil {
		t.Fatal(err)
	}
	w.entryPoints = map[string]string{}
	for name, p := range static.EntryPoints {
		port, udp, _ := strings.Cut(strings.TrimPrefix(p.Address, ":"), "/")
		n, err := strconv.Atoi(port)
		if err != nil {
			t.Fatal(err)
		}
		if n < 1024 {
			n += 40000 // not everybody may bind it
		}
		w.entryPoints[name] = net.JoinHostPort(loopback("1"), strconv.Itoa(n))
		if udp != "" {
			w.entryPoints[name] += "/udp"
		}
	}
	return w
}

func (w *world) render(t *testing.T, tulle string, more ...string) []byte {
	t.Helper()
	args := append([]string{"traefik", "render", "-f", w.dir, "--zones", strings.Join(w.zones, ","), "--default-mode", w.mode, "--access", w.access}, more...)
	cmd := exec.CommandContext(t.Context(), tulle, args...)
	var problems bytes.Buffer
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, problems.Bytes())
	}
	w.problems = problems.Bytes()
	return out
}

func allEntryPoints(worlds map[string]*world) map[string]string {
	all := map[string]string{}
	for _, w := range worlds {
		maps.Copy(all, w.entryPoints)
	}
	return all
}

// config is the rendering as Traefik reads it.
func (w *world) config(t *testing.T) *dynamic.Configuration {
	t.Helper()
	raw, err := yaml.YAMLToJSON(w.dynamic)
	if err != nil {
		t.Fatal(err)
	}
	return decode(t, raw)
}

// served is a port of a service, where either engine serves it.
type served struct {
	name, protocol, host string
	number               int
	tulle, traefik       string // addresses; "" if Traefik drops what comes there
	often                int    // how many times a thing is asked
}

func compare(t *testing.T, tulle string, s *stock, w *world) {
	config := w.config(t)
	b := newBackends(t)
	w.open(t, b, config)
	p := run(t, tulle, "run", "-f", w.dir, "--zones", strings.Join(w.zones, ","), "--default-mode", w.mode, "--access", w.access)
	ports := w.served(t, p, config)
	s.load(t, w.dynamic)
	if len(w.calls) > 0 {
		w.compareCalls(t, ports)
		return
	}
	d := &net.Dialer{Timeout: patience}
	for _, port := range ports {
		t.Run(fmt.Sprintf("%s:%d/%s", port.host, port.number, port.protocol), func(t *testing.T) {
			switch port.protocol {
			case "http":
				for _, r := range table(port) {
					same(t, r.String(), port, func(at string) map[string]bool { return answers(t, d, at, r, port.often) })
				}
			case "tcp":
				same(t, "connections", port, func(at string) map[string]bool { return connections(t, d, at) })
			case "udp":
				same(t, "datagrams", port, func(at string) map[string]bool { return datagrams(t, d, at) })
			}
		})
	}
}

// open listens where the rendering sends anything.
func (w *world) open(t *testing.T, b *backends, c *dynamic.Configuration) {
	t.Helper()
	for _, s := range c.HTTP.Services {
		if s.LoadBalancer != nil {
			for _, server := range s.LoadBalancer.Servers {
				_, address, _ := strings.Cut(server.URL, "://")
				b.add(address, false)
			}
		}
	}
	for _, s := range c.TCP.Services {
		if s.LoadBalancer != nil {
			for _, server := range s.LoadBalancer.Servers {
				b.add(server.Address, false)
			}
		}
	}
	for _, s := range c.UDP.Services {
		if s.LoadBalancer != nil {
			for _, server := range s.LoadBalancer.Servers {
				if server.Address != "127.0.0.1:9" { // where datagrams go that nobody gets
					b.add(server.Address, true)
				}
			}
		}
	}
}

// line is one of `tulle run`'s services, port one of its ports.
var (
	line = regexp.MustCompile(`^(\S+)\s+(127\.\S+)\s+(\d+/.*)$`)
	port = regexp.MustCompile(`(\d+)/(http|tcp|udp)(?: \(on (\d+)\))?`)
)

// served reads what `tulle run` says that it serves, and finds the same in the rendering.
func (w *world) served(t *testing.T, p *process, c *dynamic.Configuration) []served {
	t.Helper()
	await(t, "tulle run is up", func() error {
		if !slices.ContainsFunc(p.output(), func(l string) bool { return strings.HasPrefix(l, "mesh DNS on ") }) {
			return fmt.Errorf("it has not said what it serves: %q", p.output())
		}
		return nil
	})
	var out []served
	for _, l := range p.output() {
		m := line.FindStringSubmatch(l)
		if m == nil {
			continue
		}
		labels := strings.Split(strings.TrimSuffix(m[1], "."+w.zones[0]), ".")
		slices.Reverse(labels)
		for _, q := range port.FindAllStringSubmatch(m[3], -1) {
			// By a name in the last zone, which is no other service's in another.
			host := strings.TrimSuffix(m[1], w.zones[0]) + w.zones[len(w.zones)-1]
			one := served{name: strings.Join(labels, ".") + "." + q[1], protocol: q[2], host: host}
			one.number, _ = strconv.Atoi(q[1])
			number := q[1]
			if q[3] != "" {
				number = q[3]
			}
			one.tulle = net.JoinHostPort(m[2], number)
			one.traefik, one.often = w.entryPoint(t, one, c), 2
			if splits(one, c) {
				one.often = often
			}
			out = append(out, one)
		}
	}
	return out
}

// entryPoint finds the address of a port's router.
func (w *world) entryPoint(t *testing.T, s served, c *dynamic.Configuration) string {
	t.Helper()
	var names []string
	switch s.protocol {
	case "http":
		for name, r := range c.HTTP.Routers {
			if strings.HasPrefix(name, s.name+"-") {
				names = r.EntryPoints
			}
		}
	case "tcp":
		if r := c.TCP.Routers[s.name]; r != nil {
			names = r.EntryPoints
		}
	case "udp":
		if r := c.UDP.Routers[s.name]; r != nil {
			names = r.EntryPoints
		} else {
			return ""
		}
	}
	if len(names) != 1 {
		t.Fatalf("%s %s has the entry points %q", s.protocol, s.name, names)
	}
	return strings.TrimSuffix(w.entryPoints[names[0]], "/udp")
}

// splits says whether one of several backends or endpoints answers on a port.
func splits(s served, c *dynamic.Configuration) bool {
	for name, r := range c.HTTP.Routers {
		to := c.HTTP.Services[r.Service]
		if strings.HasPrefix(name, s.name+"-") && (to.Weighted != nil || len(to.LoadBalancer.Servers) > 1) {
			return true
		}
	}
	return false
}

// same wants the engines to have answered the same in the end, whatever the order. It may take more than one round: for
// some seconds tulle leaves out an endpoint that was slow once, as any is on a busy machine.
func same(t *testing.T, what string, p served, ask func(at string) map[string]bool) {
	t.Helper()
	tulle, traefik := map[string]bool{}, map[string]bool{}
	await(t, what, func() error {
		maps.Copy(tulle, ask(p.tulle))
		maps.Copy(traefik, ask(p.traefik))
		if maps.Equal(tulle, traefik) {
			return nil
		}
		return fmt.Errorf("\n  tulle:   %q\n  traefik: %q", slices.Sorted(maps.Keys(tulle)), slices.Sorted(maps.Keys(traefik)))
	})
}

// often is how many times everything is asked: a whole cycle of the most uneven split there is, 15 to 1.
const often = 16

type ask struct {
	method, path, host string
	header             http.Header
}

func (a ask) String() string {
	return fmt.Sprintf("%s %s of %s with %v", a.method, a.path, a.host, a.header)
}

// table lists the requests that every HTTP port gets.
func table(p served) []ask {
	var out []ask
	for _, path := range []string{
		"/", "/metrics", "/metricsfoo", "/x/metrics", "/any?q=1", "/a", "/b/c", "/x/b", "/beta", "/Beta/", "/api/v1", "/a%20b", "/%7Bx%7D", "//a", "/a/./b", "/%62eta",
	} {
		out = append(out, ask{method: http.MethodGet, path: path})
	}
	for _, method := range []string{http.MethodHead, http.MethodPost, http.MethodDelete, "PURGE"} {
		out = append(out, ask{method: method, path: "/any"}, ask{method: method, path: "/beta"})
	}
	for _, h := range []http.Header{
		{"User-Agent": {"Mozilla/5.0 Firefox/1"}}, {"User-Agent": {"Android"}, "Cookie": {"type=insider"}}, {"Cookie": {"a=1;type=insider;b=2"}},
		{"Cookie": {"type=insiders"}}, {"X-A": {"a"}}, {"X-A": {"b"}, "X-C": {"c"}}, {"X-A": {"other", "b"}, "X-C": {"c"}}, {"X-A": {"ab"}}, {"X-Empty": {""}}, {"X-Empty": {"x"}},
		{"X-Tell": {"X-Forwarded-Client-Cert"}, "X-Forwarded-Client-Cert": {"forged"}},
	} {
		out = append(out, ask{method: http.MethodGet, path: "/", header: h}, ask{method: http.MethodPost, path: "/any", header: h})
	}
	for i := range out {
		out[i].host = fmt.Sprintf("%s:%d", p.host, p.number)
	}
	return out
}

// answers asks a few times and collects the different answers: the status, and what the backend saw.
func answers(t *testing.T, d *net.Dialer, at string, a ask, often int) map[string]bool {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "tcp", at) }}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport, Timeout: patience}
	out := map[string]bool{}
	for range often {
		r, err := http.NewRequestWithContext(t.Context(), a.method, "http://"+a.host+a.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(r.Header, a.header)
		out[answerOf(t, &client, r)] = true
	}
	return out
}

func connections(t *testing.T, d *net.Dialer, at string) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	for range often {
		out[connection(t, d, at)] = true
	}
	return out
}

// connection says who answers on a TCP connection.
func connection(t *testing.T, d *net.Dialer, at string) string {
	t.Helper()
	c, err := d.DialContext(t.Context(), "tcp", at)
	if err != nil {
		return "closed"
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprint(c, "GET /tcp HTTP/1.0\r\n\r\n"); err != nil {
		return "closed"
	}
	return lastLine(c)
}

// datagrams sends the first datagrams of flows all at once: what is dropped takes its time.
func datagrams(t *testing.T, d *net.Dialer, at string) map[string]bool {
	t.Helper()
	answered := make(chan string)
	for range often {
		go func() { answered <- datagram(t, d, at) }()
	}
	out := map[string]bool{}
	for range often {
		out[<-answered] = true
	}
	return out
}

// datagram says who answers a datagram of a new flow.
func datagram(t *testing.T, d *net.Dialer, at string) string {
	if at == "" {
		return "dropped"
	}
	c, err := d.DialContext(t.Context(), "udp", at)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		return "dropped"
	}
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	buffer := make([]byte, 2048)
	n, err := c.Read(buffer)
	if err != nil {
		return "dropped"
	}
	return string(buffer[:n])
}
