package proxy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// spireServer is a SPIRE server, and the agents that it has attested by join tokens. Its programs are in the folder that
// SPIRE names; integration/spire.sh builds them.
type spireServer struct {
	t      *testing.T
	bin    string
	dir    string // short: paths of sockets have to be
	domain string
	port   int
}

// spirePrograms returns the folder, or skips the test.
func spirePrograms(t *testing.T) string {
	t.Helper()
	bin := os.Getenv("SPIRE")
	if bin == "" {
		t.Skip("make spire builds SPIRE and runs this")
	}
	return bin
}

const serverConfig = `
server {
  bind_address = "127.0.0.1"
  bind_port = "%[1]d"
  socket_path = "%[2]s/server.sock"
  trust_domain = "%[3]s"
  data_dir = "%[2]s"
  log_level = "INFO"
  ca_key_type = "ec-p256"
  experimental { cache_reload_interval = "500ms" }
}
plugins {
  DataStore "sql" { plugin_data { database_type = "sqlite3" connection_string = "%[2]s/data.sqlite3" } }
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "memory" { plugin_data {} }
}
`

const agentConfig = `
agent {
  server_address = "127.0.0.1"
  server_port = "%[1]d"
  socket_path = "%[2]s/api.sock"
  trust_domain = "%[3]s"
  trust_bundle_path = "%[2]s/bundle.pem"
  data_dir = "%[2]s"
  log_level = "INFO"
  experimental { sync_interval = "500ms" }
}
plugins {
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "disk" { plugin_data { directory = "%[2]s" } }
  WorkloadAttestor "unix" { plugin_data {} }
}
`

func newSPIREServer(t *testing.T, domain string) *spireServer {
	t.Helper()
	s := &spireServer{t: t, bin: spirePrograms(t), domain: domain, dir: shortDir(t), port: freePort(t)}
	write(t, filepath.Join(s.dir, "server.conf"), serverConfig, s.port, s.dir, domain)
	startProgram(t, "server of "+domain, filepath.Join(s.bin, "spire-server"), "run", "-config", filepath.Join(s.dir, "server.conf"))
	patiently(t, "the server is healthy", func() error { return s.try("healthcheck") })
	return s
}

// shortDir is a folder for as long as the test.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "spire") //nolint:usetesting // t.TempDir's paths are too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func write(t *testing.T, path, format string, args ...any) {
	t.Helper()
	if err := os.WriteFile(path, fmt.Appendf(nil, format, args...), 0o600); err != nil {
		t.Fatal(err)
	}
}

// startProgram starts a program that runs until the test ends, or stop is called. What it says goes to a file,
// and is shown if the test fails.
func startProgram(t *testing.T, what, program string, args ...string) (stop func(), says string) {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(program, args...) //nolint:gosec // SPIRE
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // it is killed
	}()
	says = log.Name()
	stop = func() {
		_ = cmd.Process.Kill() // it may have ended
		<-ended
	}
	t.Cleanup(func() {
		stop()
		if said, err := os.ReadFile(says); t.Failed() && err == nil {
			t.Logf("the %s said:\n%s", what, said)
		}
	})
	return stop, says
}

// patiently polls what other programs have to do, on a machine that may be busy.
func patiently(t *testing.T, what string, f func() error) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// try runs a command of the server's.
func (s *spireServer) try(args ...string) error {
	_, err := s.command(nil, args...)
	return err
}

func (s *spireServer) command(in []byte, args ...string) ([]byte, error) {
	words := 0
	for words < len(args) && !strings.HasPrefix(args[words], "-") {
		words++
	}
	args = append(append(append([]string{}, args[:words]...), "-socketPath", s.dir+"/server.sock"), args[words:]...)
	cmd := exec.CommandContext(s.t.Context(), filepath.Join(s.bin, "spire-server"), args...) //nolint:gosec // SPIRE
	cmd.Stdin = bytes.NewReader(in)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("spire-server %s: %w: %s", strings.Join(args, " "), err, said.Bytes())
	}
	return out.Bytes(), nil
}

// must runs a command of the server's that has to succeed.
func (s *spireServer) must(in []byte, args ...string) []byte {
	s.t.Helper()
	out, err := s.command(in, args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// ask is must for an answer in JSON.
func (s *spireServer) ask(into any, args ...string) {
	s.t.Helper()
	if err := json.Unmarshal(s.must(nil, append(args, "-output", "json")...), into); err != nil {
		s.t.Fatal(err)
	}
}

// spireAgent is the agent of a node.
type spireAgent struct {
	server *spireServer
	node   string
	dir    string
	stop   func()
	says   string // the path of its log
}

// agent attests the agent of a node.
func (s *spireServer) agent(node string) *spireAgent {
	s.t.Helper()
	a := &spireAgent{server: s, node: node, dir: shortDir(s.t)}
	var token struct{ Value string }
	s.ask(&token, "token", "generate", "-spiffeID", s.id("node/"+node))
	write(s.t, filepath.Join(a.dir, "bundle.pem"), "%s", s.must(nil, "bundle", "show"))
	write(s.t, filepath.Join(a.dir, "agent.conf"), agentConfig, s.port, a.dir, s.domain)
	a.start("-joinToken", token.Value)
	return a
}

// start starts the agent, the first time with its token.
func (a *spireAgent) start(args ...string) {
	a.server.t.Helper()
	args = append([]string{"run", "-config", filepath.Join(a.dir, "agent.conf")}, args...)
	a.stop, a.says = startProgram(a.server.t, "agent of "+a.node, filepath.Join(a.server.bin, "spire-agent"), args...)
	patiently(a.server.t, "the agent is there", func() error {
		c, err := net.Dial("unix", a.dir+"/api.sock")
		if err == nil {
			c.Close()
		}
		return err
	})
}

// said says whether the agent has logged something since it was started.
func (a *spireAgent) said(what string) error {
	log, err := os.ReadFile(a.says)
	if err == nil && !bytes.Contains(log, []byte(what)) {
		err = fmt.Errorf("%s has not said %q", a.node, what)
	}
	return err
}

func (a *spireAgent) address() string { return "unix://" + a.dir + "/api.sock" }

func (s *spireServer) id(path string) string { return "spiffe://" + s.domain + "/" + path }

// entry is a registration entry, as spire-server entry create takes them.
type entry struct {
	EntryID       string     `json:"entry_id"`
	ParentID      string     `json:"parent_id"`
	SPIFFEID      string     `json:"spiffe_id"`
	Selectors     []selector `json:"selectors"`
	TTL           int        `json:"x509_svid_ttl"`
	FederatesWith []string   `json:"federates_with,omitempty"`
}

type selector struct {
	Type  string `json:"type"`
	Value string `json:"value"`
}

// register creates entries of ServiceAccounts, given as namespace/name, on nodes: the node is the parent, and the
// selectors are the proxy's, which here is this process.
func (s *spireServer) register(ttl time.Duration, federates []string, accounts map[string][]string) {
	s.t.Helper()
	var in struct {
		Entries []entry `json:"entries"`
	}
	for node, names := range accounts {
		for _, name := range names {
			namespace, account, _ := strings.Cut(name, "/")
			in.Entries = append(in.Entries, entry{
				EntryID: entryID(node, name), ParentID: s.id("node/" + node), SPIFFEID: s.id("ns/" + namespace + "/sa/" + account),
				Selectors: []selector{{"unix", "uid:" + strconv.Itoa(os.Getuid())}}, TTL: int(ttl.Seconds()), FederatesWith: federates,
			})
		}
	}
	data, err := json.Marshal(in)
	if err != nil {
		s.t.Fatal(err)
	}
	s.must(data, "entry", "create", "-data", "-")
}

func (s *spireServer) unregister(node, name string) {
	s.t.Helper()
	s.must(nil, "entry", "delete", "-entryID", entryID(node, name))
}

func entryID(node, name string) string { return node + "." + strings.ReplaceAll(name, "/", ".") }
