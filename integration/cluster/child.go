package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const (
	childEnv   = "TULLE_CLUSTER_CHILD" // what this process is to become
	specEnv    = "TULLE_CLUSTER_NODE"  // nodeSpec as JSON
	stageEnter = "enter"
	stageInit  = "init"
)

// MaybeChild must be the first call of main (or TestMain) of a program that calls Start: the program runs itself as the
// first process of every node, and then MaybeChild does not return.
func MaybeChild() {
	stage := os.Getenv(childEnv)
	if stage == "" {
		return
	}
	fmt.Fprintln(os.Stderr, "node:", child(stage))
	os.Exit(1) //nolint:forbidigo // main must not go on in what is a node now
}

func child(stage string) error {
	var s nodeSpec
	if err := json.Unmarshal([]byte(os.Getenv(specEnv)), &s); err != nil {
		return fmt.Errorf("%s: %w", specEnv, err)
	}
	if stage == stageEnter {
		return s.enter()
	}
	return s.init()
}

// enter is already in the node's cgroups and its network namespace: it makes the other namespaces.
func (s nodeSpec) enter() error {
	runtime.LockOSThread() // the node dies with the thread that starts it
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self)
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = os.Stdout, os.Stderr, namespaced()
	cmd.Env = append(os.Environ(), childEnv+"="+stageInit)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start PID 1: %w", err)
	}
	// What goes on here only waits, and is none of the node's processes.
	err = errors.Join(joinCgroups(s.Cluster, controlPlane), os.WriteFile(s.conf("pid"), fmt.Appendln(nil, cmd.Process.Pid), 0o644))
	return errors.Join(err, cmd.Wait())
}

// init is PID 1 of a node.
func (s nodeSpec) init() error {
	if err := errors.Join(os.Unsetenv(childEnv), os.Unsetenv(specEnv), setHostname(s.Name)); err != nil {
		return err
	}
	if err := s.mounts(); err != nil {
		return err
	}
	if err := s.sysctls(); err != nil {
		return err
	}
	// PID 1 reaps everything later on; until then os/exec may wait for its own.
	daemons := map[int]daemon{}
	start := func(d daemon) error {
		pid, err := s.start(d)
		daemons[pid] = d
		return err
	}
	if err := start(daemon{"containerd", []string{"containerd", "-c", s.conf("containerd.toml")}}); err != nil {
		return err
	}
	if err := s.importImages(); err != nil {
		return err
	}
	if err := start(daemon{"kubelet", []string{
		filepath.Join(s.Bin, "kubelet"), "--config=" + s.conf("kubelet.yaml"),
		"--kubeconfig=" + filepath.Join(s.PKI, s.Name+".kubeconfig"), "--hostname-override=" + s.Name, "--node-ip=" + s.IPs,
	}}); err != nil {
		return err
	}
	if err := start(daemon{"kube-proxy", []string{filepath.Join(s.Bin, "kube-proxy"), "--config=" + s.conf("kube-proxy.yaml")}}); err != nil {
		return err
	}
	if len(s.Engine) > 0 {
		if err := start(daemon{"kube-router", s.Engine}); err != nil {
			return err
		}
	}
	for {
		pid, err := syscall.Wait4(-1, nil, 0, nil)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return fmt.Errorf("wait for the processes of %s: %w", s.Name, err)
		}
		d, ok := daemons[pid]
		if !ok {
			continue
		}
		delete(daemons, pid)
		fmt.Fprintf(os.Stderr, "%s ended, it is started again\n", d.name)
		time.Sleep(time.Second)
		if err := start(d); err != nil {
			return err
		}
	}
}

// daemon is a process of a node that is kept running.
type daemon struct {
	name string
	argv []string
}

func (s nodeSpec) start(d daemon) (int, error) {
	path, err := exec.LookPath(d.argv[0])
	if err != nil {
		return 0, err
	}
	log, err := os.OpenFile(filepath.Join(s.LogDir, s.Name+"-"+d.name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	p, err := os.StartProcess(path, d.argv, &os.ProcAttr{Files: []*os.File{nil, log, log}, Env: os.Environ()})
	if err != nil {
		return 0, fmt.Errorf("%s: %w", d.name, err)
	}
	return p.Pid, os.WriteFile(s.conf(d.name+".pid"), fmt.Appendln(nil, p.Pid), 0o644)
}

func (s nodeSpec) importImages() error {
	for deadline := time.Now().Add(defaultTimeout); exec.Command("ctr", "version").Run() != nil; {
		if time.Now().After(deadline) {
			return errors.New("containerd does not answer")
		}
		time.Sleep(50 * time.Millisecond)
	}
	for _, archive := range s.Images {
		argv := append(importImage(), archive)
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("import %s: %w: %s", archive, err, out)
		}
	}
	return nil
}

func (s nodeSpec) mounts() error {
	if err := setPropagation(false); err != nil {
		return err
	}
	hs, err := hierarchies()
	if err != nil {
		return err
	}
	err = errors.Join(
		mount("proc", "/proc", "proc", ""),
		mount("tmpfs", "/run", "tmpfs", "mode=755"),
		mount("sysfs", "/sys", "sysfs", "")) // with /sys/class/net of this network namespace
	if err != nil {
		return err
	}
	for _, d := range nodeDirs {
		if err := bind(s.own(d), d); err != nil {
			return err
		}
	}
	if err := mountCgroups(hs); err != nil {
		return err
	}
	return setPropagation(true)
}

// machineWide are switches that the kubelet and runc set for the whole machine: the node gets files of its own in their
// places, which already say what they want. Their values are what the kubelet asks for.
var machineWide = map[string]string{
	"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
	"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
}

func (s nodeSpec) sysctls() error {
	for name, value := range machineWide {
		file := "/run/sysctl." + strings.ReplaceAll(name, "/", ".")
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := bind(file, "/proc/sys/"+name); err != nil {
			return err
		}
	}
	err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644)
	if s.IPv6 {
		err = errors.Join(err, os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0o644))
	}
	return err
}
