package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// nodeSpec is what the first process of a node is told.
type nodeSpec struct {
	Name    string
	Cluster string   // its cgroup is tulle-CLUSTER/NAME
	Dir     string   // its state, configuration included
	LogDir  string   // NAME-COMPONENT.log
	Bin     string   // folder of kubelet and kube-proxy
	PKI     string   // folder
	IPs     string   // comma separated
	IPv6    bool     // forward it
	Images  []string // OCI archives to import
	Engine  []string // the command line of what enforces NetworkPolicies; empty = none
}

// nodeDirs are folders of the machine that every node has of its own.
var nodeDirs = []string{"/var/lib/containerd", "/var/lib/kubelet", "/var/lib/cni", "/var/log/pods", "/var/log/containers", "/etc/cni/net.d"}

// startNode writes a node's configuration and starts the process that becomes its PID 1: see child.go.
func (c *Cluster) startNode(n node) error {
	spec := nodeSpec{
		Name: n.String(), Cluster: c.o.Name, Dir: filepath.Join(c.dir, n.String()), LogDir: c.logDir(), Bin: c.bins.Kube, PKI: c.pki.dir,
		IPs: c.both(n.ip(), n.ip6()), IPv6: c.o.DualStack, Images: append(c.bins.Images(), c.o.Images...),
	}
	if c.o.NetworkPolicies {
		spec.Engine = c.engine(n)
	}
	for _, d := range nodeDirs {
		if err := errors.Join(os.MkdirAll(spec.own(d), 0o755), os.MkdirAll(d, 0o755)); err != nil {
			return err
		}
	}
	if err := c.configureNode(n, spec); err != nil {
		return err
	}
	b, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	self, err := os.Executable() // /proc/self/exe would be nsenter
	if err != nil {
		return err
	}
	env := []string{childEnv + "=" + stageEnter, specEnv + "=" + string(b)}
	argv, err := c.on(spec.Name, self)
	if err != nil {
		return err
	}
	return c.procs.start("node-"+spec.Name, env, argv...)
}

// engine is kube-router without its router and its service proxy.
func (c *Cluster) engine(n node) []string {
	argv := []string{
		c.bins.kubeRouter, "--kubeconfig=" + c.pki.path("kube-router.kubeconfig"), "--hostname-override=" + n.String(),
		"--service-cluster-ip-range=" + c.both(serviceCIDR, serviceCIDR6), "--service-node-port-range=30000-32767", "--health-port=0",
	}
	if c.o.DualStack {
		argv = append(argv, "--enable-ipv6")
	}
	return argv
}

func (s nodeSpec) own(dir string) string { return filepath.Join(s.Dir, "root", dir) }
func (s nodeSpec) conf(name string) string {
	return filepath.Join(s.Dir, name)
}

func (c *Cluster) configureNode(n node, s nodeSpec) error {
	data := struct {
		Name, PKI, DNS, PodCIDR, PodCIDR6, ClusterCIDR, ProxyMode, Pause, Snapshotter string
		DualStack                                                                     bool
		Profile                                                                       profile
	}{
		Name: s.Name, PKI: s.PKI, DNS: dnsIP, PodCIDR: n.podCIDR(), PodCIDR6: n.podCIDR6(), ClusterCIDR: c.both(podCIDR, podCIDR6),
		ProxyMode: c.o.ProxyMode, Pause: pauseImage, Snapshotter: "overlayfs", DualStack: c.o.DualStack, Profile: c.o.Profile.settings(),
	}
	if onOverlay(s.Dir) { // which can't be stacked; copies are slow but work
		data.Snapshotter = "native"
	}
	return errors.Join(
		render(filepath.Join(s.own("/etc/cni/net.d"), "10-bridge.conflist"), "cni.conflist.tmpl", data),
		render(s.conf("containerd.toml"), "containerd.toml.tmpl", data),
		render(s.conf("kubelet.yaml"), "kubelet.yaml.tmpl", data),
		render(s.conf("kube-proxy.yaml"), "kube-proxy.yaml.tmpl", data))
}

// waitNode waits until a node is Ready, and its kubelet has the lease that it renews, which it may get a moment later.
func (c *Cluster) waitNode(ctx context.Context, n node) error {
	ready := func() bool {
		if _, err := c.get(ctx, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/"+n.String()); err != nil {
			return false
		}
		body, err := c.get(ctx, "/api/v1/nodes/"+n.String())
		if err != nil {
			return false
		}
		var v struct {
			Status struct {
				Conditions []struct{ Type, Status string }
			}
		}
		if json.Unmarshal([]byte(body), &v) != nil {
			return false
		}
		for _, cond := range v.Status.Conditions {
			if cond.Type == "Ready" {
				return cond.Status == "True"
			}
		}
		return false
	}
	if err := c.until(ctx, "node-"+n.String(), ready); err != nil {
		return fmt.Errorf("%w\nthe end of the kubelet's log:\n%s", err, c.procs.tail(n.String()+"-kubelet"))
	}
	return nil
}

// ExecIn runs a command in the namespaces of a node, not in a pod of it, and returns what it prints.
func (c *Cluster) ExecIn(ctx context.Context, place string, argv ...string) (string, error) {
	b, err := os.ReadFile(filepath.Join(c.dir, place, "pid"))
	if err != nil {
		return "", fmt.Errorf("node %s: %w", place, err)
	}
	args := append([]string{"-t", strings.TrimSpace(string(b)), "--mount", "--uts", "--ipc", "--net", "--pid"}, argv...)
	out, err := exec.CommandContext(ctx, "nsenter", args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s on node %s: %w: %s", strings.Join(argv, " "), place, err, out)
	}
	return string(out), nil
}

// LoadImage imports an OCI archive into every node.
func (c *Cluster) LoadImage(ctx context.Context, archive string) error {
	abs, err := filepath.Abs(archive)
	if err != nil {
		return err
	}
	for _, n := range c.Nodes() {
		if _, err := c.ExecIn(ctx, n, append(importImage(), abs)...); err != nil {
			return err
		}
	}
	return nil
}

func importImage() []string { return []string{"ctr", "-n", "k8s.io", "images", "import"} }

// SignalNode sends a signal to a node's containerd, kubelet or kube-proxy. One that dies is started again after a second.
func (c *Cluster) SignalNode(ctx context.Context, place, component string, sig syscall.Signal) error {
	b, err := os.ReadFile(filepath.Join(c.dir, place, component+".pid"))
	if err != nil {
		return fmt.Errorf("node %s: %w", place, err)
	}
	_, err = c.ExecIn(ctx, place, "kill", "-"+strconv.Itoa(int(sig)), strings.TrimSpace(string(b)))
	return err
}

// KillNode ends a node as a power cut would: all its processes are gone at once.
func (c *Cluster) KillNode(place string) error {
	return c.procs.signal("node-"+place, syscall.SIGKILL)
}
