package cluster

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/integration/images/report"
)

// The tests share one cluster. As starting it takes root and a machine to itself, they run on request only.
const (
	gateEnv   = "TULLE_E2E"
	driverEnv = "TULLE_CLUSTER_TEST_DRIVER" // this program is to start a cluster of that name and wait to be killed
	patience  = time.Minute
)

type fixture struct{ *Cluster }

func TestMain(m *testing.M) {
	MaybeChild()
	if name := os.Getenv(driverEnv); name != "" {
		drive(name)
	}
	os.Exit(m.Run())
}

func drive(name string) {
	if _, err := Start(context.Background(), Options{Name: name, Nodes: 1, Log: func(s string) { fmt.Fprintln(os.Stderr, s) }}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("up")
	select {}
}

func TestCluster(t *testing.T) {
	if os.Getenv(gateEnv) == "" {
		t.Skipf("starting a cluster is skipped: set %s=1, as root on Linux, to run it", gateEnv)
	}
	started := time.Now()
	c, err := Start(t.Context(), Options{ProxyMode: os.Getenv("TULLE_E2E_PROXY_MODE"), DualStack: true, Log: func(s string) { t.Log(s) }})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		c.Stop()
		checkGone(t, c.o.Name)
	}()
	f := fixture{c}
	f.kubectl(t, "apply", "-f", "testdata/web.yaml")
	if err := c.WaitDNS(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.kubectl(t, "-n", "demo", "rollout", "status", "daemonset/web", "--timeout=60s")
	t.Logf("booted and deployed in %.1fs", time.Since(started).Seconds())

	t.Run("service by name from every node", f.serviceByName)
	t.Run("both address families", f.dualStack)
	t.Run("dial in", f.dialIn)
	t.Run("load image", f.loadImage)
	t.Run("kill a process of a pod", f.killProcess)
	t.Run("kubelet comes back", f.kubeletComesBack)
	t.Run("API server restarts", f.restartAPIServer)
	t.Run("machines have cgroups", f.machines)
	t.Run("kill -9 leaves nothing", testKill)
}

func (f fixture) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := f.Kubectl.Run(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// pod returns the name and the address of the web pod on a node.
func (f fixture) pod(t *testing.T, node string) (name, ip string) {
	t.Helper()
	out := f.kubectl(t, "-n", "demo", "get", "pods", "--field-selector", "spec.nodeName="+node, "-o", "jsonpath={.items[0].metadata.name} {.items[0].status.podIP}")
	name, ip, _ = strings.Cut(out, " ")
	return name, ip
}

func (f fixture) serviceByName(t *testing.T) {
	for _, node := range f.Nodes() {
		name, ip := f.pod(t, node)
		out := f.kubectl(t, "-n", "demo", "exec", name, "--", "testtool", "get", "-n", "40", "http://web.demo/")
		var s report.Summary
		if err := json.Unmarshal([]byte(out), &s); err != nil {
			t.Fatal(err)
		}
		if s.OK != 40 || len(s.ByNode) != 2 {
			t.Errorf("from %s: %d of 40 calls answered, by nodes %v, errors %v; want all, from both", node, s.OK, s.ByNode, s.Errors)
		}
		f.keepsAddress(t, node, name, ip)
	}
}

// keepsAddress calls through the Service until the other node's pod answers: a pod that reaches itself is masqueraded.
func (f fixture) keepsAddress(t *testing.T, node, name, ip string) {
	t.Helper()
	var s report.Summary
	eventually(t, "an answer from the other node", func() bool {
		out := f.kubectl(t, "-n", "demo", "exec", name, "--", "testtool", "get", "http://web.demo/")
		s = report.Summary{}
		return json.Unmarshal([]byte(out), &s) == nil && s.OK == 1 && s.Last.Node != node
	})
	if host, _, _ := net.SplitHostPort(s.Last.Remote); host != ip {
		t.Errorf("the server saw the caller as %s, want the pod's own address %s", host, ip)
	}
}

func (f fixture) dualStack(t *testing.T) {
	out := f.kubectl(t, "-n", "demo", "get", "pods", "-o", "jsonpath={.items[*].status.podIPs[*].ip}")
	for ip := range strings.FieldsSeq(out) {
		conn, err := f.DialIn(t.Context(), "n1", net.JoinHostPort(ip, "8080"))
		if err != nil {
			t.Errorf("%s: %v", ip, err)
			continue
		}
		conn.Close()
	}
	if n := len(strings.Fields(out)); n != 4 {
		t.Errorf("the pods have %d addresses (%s), want two each", n, out)
	}
}

func (f fixture) dialIn(t *testing.T) {
	_, ip := f.pod(t, "n2")
	for _, place := range []string{"cp", "n1"} {
		conn, err := f.DialIn(t.Context(), place, net.JoinHostPort(ip, "8080"))
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	if _, err := f.DialIn(t.Context(), "n9", net.JoinHostPort(ip, "8080")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("dial in a node that isn't there: %v", err)
	}
}

func (f fixture) loadImage(t *testing.T) {
	if err := f.LoadImage(t.Context(), f.bins.testtool); err != nil {
		t.Error(err)
	}
	if err := f.LoadImage(t.Context(), "/dev/null"); err == nil {
		t.Error("an empty archive was loaded")
	}
}

func (f fixture) killProcess(t *testing.T) {
	name, _ := f.pod(t, "n1")
	ps, err := f.ContainerProcesses(t.Context(), "demo", name, "web")
	if err != nil {
		t.Fatal(err)
	}
	if len(ps) != 1 || ps[0].Args[0] != "/bin/testtool" {
		t.Fatalf("processes of the pod: %v", ps)
	}
	if err := ps[0].Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "one restart", func() bool {
		return f.kubectl(t, "-n", "demo", "get", "pod", name, "-o", "jsonpath={.status.containerStatuses[0].restartCount}") == "1"
	})
}

func (f fixture) kubeletComesBack(t *testing.T) {
	pid := func() string {
		b, err := os.ReadFile(filepath.Join(f.dir, "n2", "kubelet.pid"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	old := pid()
	if err := f.SignalNode(t.Context(), "n2", "kubelet", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another kubelet", func() bool { return pid() != old })
	name, _ := f.pod(t, "n2")
	eventually(t, "exec by the new kubelet", func() bool {
		_, err := f.Kubectl.Run(t.Context(), "-n", "demo", "exec", name, "--", "testtool", "cat", "/etc/hostname")
		return err == nil
	})
}

func (f fixture) restartAPIServer(t *testing.T) {
	if err := f.RestartControlPlane("kube-apiserver", "--v=1"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the API server", func() bool { _, err := f.get(t.Context(), "/readyz"); return err == nil })
}

// machines says what competes with what for CPU: the control plane with the nodes, a node's daemons with all its pods.
// It runs after daemons have been started again, as those must be in the right places, too.
func (f fixture) machines(t *testing.T) {
	hs, err := hierarchies()
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range hs {
		cluster := filepath.Join(h.path, prefix(f.o.Name))
		checkPrograms(t, cluster)
		checkPrograms(t, filepath.Join(cluster, controlPlane), "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
		for _, node := range f.Nodes() {
			checkPrograms(t, filepath.Join(cluster, node))
			checkPrograms(t, filepath.Join(cluster, node, initLeaf), "containerd", "kubelet", "kube-proxy", "containerd-shim-runc-v2")
			if _, err := os.Stat(filepath.Join(cluster, node, "kubepods")); err != nil {
				t.Error(err)
			}
		}
	}
	for _, p := range processesOf(t, f.o.Name) {
		dir, cmdline, _ := strings.Cut(p, " ")
		b, err := os.ReadFile(filepath.Join(dir, "cgroup"))
		if err != nil {
			continue // it has ended
		}
		for line := range strings.Lines(string(b)) {
			f := strings.SplitN(strings.TrimSpace(line), ":", 3)
			if f[2] == "/" && (hs[0].v2 || slices.Contains(strings.Split(f[1], ","), "cpu")) {
				t.Errorf("%s is in the root of the CPU cgroups", cmdline)
			}
		}
	}
}

// checkPrograms checks that each of the programs runs in a cgroup, and, if there are none, that nothing does.
func checkPrograms(t *testing.T, cgroup string, want ...string) {
	t.Helper()
	ps, err := cgroupProcesses(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	var programs []string
	for _, p := range ps {
		programs = append(programs, filepath.Base(p.Args[0]))
	}
	if len(want) == 0 && len(programs) > 0 {
		t.Errorf("in %s run %v, want none", cgroup, programs)
	}
	for _, w := range want {
		if !slices.Contains(programs, w) {
			t.Errorf("in %s run %v, want %s among them", cgroup, programs, w)
		}
	}
}

// testKill starts a second cluster beside the shared one, from a process of its own that is killed.
func testKill(t *testing.T) {
	const name = "victim"
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), driverEnv+"="+name)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "up\n" {
		t.Fatalf("the second cluster did not start: %q, %v", line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	eventually(t, "the death of all processes", func() bool { return len(processesOf(t, name)) == 0 })
	if err := Clean(); err != nil {
		t.Fatal(err)
	}
	checkGone(t, name)
}

// processesOf finds all that run in a cluster's namespaces, by their cgroups and by the folders that they were told.
func processesOf(t *testing.T, name string) []string {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, d := range dirs {
		cmdline, _ := os.ReadFile(filepath.Join(d, "cmdline")) // it may have ended
		cgroup, _ := os.ReadFile(filepath.Join(d, "cgroup"))
		if strings.Contains(string(cmdline), prefix(name)+"/") || strings.Contains(string(cgroup), "/"+prefix(name)+"/") {
			found = append(found, d+" "+strings.ReplaceAll(string(cmdline), "\x00", " "))
		}
	}
	return found
}

func checkGone(t *testing.T, name string) {
	t.Helper()
	if ps := processesOf(t, name); len(ps) > 0 {
		t.Errorf("processes are left: %v", ps)
	}
	for _, pattern := range []string{"/run/netns/" + prefix(name) + "*", stateDir(name) + "*", cgroupRoot + "/*/" + prefix(name), cgroupRoot + "/" + prefix(name)} {
		left, err := filepath.Glob(pattern)
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not come about within %v", what, patience)
		}
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}
