// Package cluster runs a real Kubernetes cluster on one Linux machine, without a container engine: the control plane in
// one network namespace, every node in network, PID, mount, UTS, IPC and cgroup namespaces of its own with its own
// containerd, kubelet and kube-proxy. It needs root.
//
// The machines of a cluster compete for CPU as equals. In a node, all its daemons together compete with all its pods
// together, as on a machine that keeps its daemons in system.slice.
//
// A program that calls Start must call MaybeChild first of all, in main or TestMain. Several clusters can run side by
// side, also of several programs: each has namespaces, cgroups and a state folder of its own name, and the address
// ranges, which are always the same, never leave the namespaces. All processes die with the program that called Start,
// however it ends; the namespaces, cgroups and folders that a killed program leaves are removed by the next Start, or by
// Clean. Nothing is sent outside loopback and the namespaces.
package cluster

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Options says what to start. The zero value is a quick cluster of two nodes with kube-proxy in nftables mode.
type Options struct {
	Name            string        // up to eight of a-z and 0-9; unique among running clusters; default random
	Nodes           int           // 1 to 99, default 2
	NoNodes         bool          // only a control plane: what Nodes and Pods there are is up to who writes them
	Profile         Profile       // default Quick
	ProxyMode       string        // of kube-proxy: nftables (default) or iptables
	DualStack       bool          // IPv6 addresses beside the IPv4 ones for nodes, pods and Services
	NetworkPolicies bool          // kube-router enforces them; without it, nothing does
	DNSImports      bool          // the Corefile imports those of ConfigMap coredns-custom, as k3s' and AKS' do
	Images          []string      // OCI archives that every node imports before its kubelet starts
	Manifests       []string      // YAML files, applied once the API server answers
	APIServerFlags  []string      // further flags of kube-apiserver
	LogDir          string        // where the logs of all components go and stay; default: the state folder, which goes
	Log             func(string)  // told about progress; may be nil
	Timeout         time.Duration // for becoming ready, default 3 minutes; builds are not counted
	Root            string        // the source tree of tulle; default: looked for upwards from the working directory
}

// Cluster is a running cluster.
type Cluster struct {
	Kubeconfig string // of an administrator, for this machine's loopback
	Kubectl    Kubectl

	o     Options
	bins  Binaries
	dir   string // state
	lock  *nameLock
	procs *processes
	pki   *pki
	ln    net.Listener // forwards to the API server
	start time.Time
	once  sync.Once
}

const defaultTimeout = 3 * time.Minute

var validName = regexp.MustCompile(`^[a-z0-9]{1,8}$`)

func (o *Options) complete() error {
	if o.Name == "" {
		o.Name = strings.ToLower(rand.Text()[:6])
	}
	switch {
	case o.NoNodes:
		o.Nodes = 0
	case o.Nodes == 0:
		o.Nodes = 2
	}
	if o.Profile == "" {
		o.Profile = Quick
	}
	if o.ProxyMode == "" {
		o.ProxyMode = "nftables"
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.Log == nil {
		o.Log = func(string) {}
	}
	switch {
	case !validName.MatchString(o.Name):
		return fmt.Errorf("cluster name %q: want up to eight of a-z and 0-9", o.Name)
	case o.Nodes < 0 || o.Nodes > 99:
		return fmt.Errorf("%d nodes: want 1 to 99", o.Nodes)
	case o.ProxyMode != "nftables" && o.ProxyMode != "iptables":
		return fmt.Errorf("kube-proxy mode %q: want nftables or iptables", o.ProxyMode)
	}
	return o.Profile.valid()
}

// Start brings a cluster up and returns when every node is Ready and the manifests are applied. It builds what is not
// in the cache yet, which takes many minutes once per Kubernetes version, and installs missing Debian packages.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	if err := usable(); err != nil {
		return nil, err
	}
	if err := Clean(); err != nil {
		return nil, err
	}
	if err := InstallPackages(ctx, o.Log); err != nil {
		return nil, err
	}
	bins, err := Build(ctx, o.Root, o.Log)
	if err != nil {
		return nil, err
	}
	if o.NetworkPolicies {
		if err := bins.buildEngine(ctx, o.Root, o.Log); err != nil {
			return nil, err
		}
	}
	lock, err := lockName(o.Name)
	if err != nil {
		return nil, err
	}
	c := &Cluster{o: o, bins: bins, dir: stateDir(o.Name), lock: lock, start: time.Now()}
	c.procs = newProcesses(c.logDir())
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	if err := c.up(ctx); err != nil {
		err = fmt.Errorf("start cluster %s: %w", o.Name, err)
		c.Stop()
		return nil, err
	}
	return c, nil
}

func (c *Cluster) up(ctx context.Context) error {
	if err := removeLeftovers(c.o.Name); err != nil {
		return err
	}
	for _, d := range []string{c.logDir(), filepath.Join(c.dir, "etcd")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := c.network(ctx); err != nil {
		return err
	}
	if err := c.certificates(); err != nil {
		return err
	}
	if err := makeCgroups(c.o.Name, append(c.Nodes(), controlPlane)); err != nil {
		return err
	}
	c.progress("network, certificates and cgroups")
	// nodes first: containerd starts and imports the images while the API comes up
	for i := range c.o.Nodes {
		if err := c.startNode(node(i + 1)); err != nil {
			return err
		}
	}
	if err := c.startControlPlane(ctx); err != nil {
		return err
	}
	if err := c.applyManifests(ctx); err != nil {
		return err
	}
	for i := range c.o.Nodes {
		if err := c.waitNode(ctx, node(i+1)); err != nil {
			return err
		}
	}
	c.progress("%d nodes Ready", c.o.Nodes)
	return nil
}

func (c *Cluster) applyManifests(ctx context.Context) error {
	args := []string{"apply", "--server-side"}
	for _, m := range c.o.Manifests {
		args = append(args, "-f", m)
	}
	if c.o.NoNodes { // then nothing would run CoreDNS
		if len(c.o.Manifests) == 0 {
			return nil
		}
		_, err := c.Kubectl.Run(ctx, args...)
		return err
	}
	dns := filepath.Join(c.dir, "coredns.yaml")
	if err := c.renderDNS(dns); err != nil {
		return err
	}
	if _, err := c.Kubectl.Run(ctx, append(args, "-f", dns)...); err != nil {
		return err
	}
	c.progress("manifests applied")
	return nil
}

func (c *Cluster) renderDNS(path string) error {
	return render(path, "coredns.yaml.tmpl", struct {
		Profile   profile
		Image     string
		DualStack bool
		Imports   bool
	}{c.o.Profile.settings(), corednsImage, c.o.DualStack, c.o.DNSImports})
}

// Stop ends all processes and removes the state, namespaces and cgroups.
func (c *Cluster) Stop() {
	c.once.Do(func() {
		c.procs.killAll()
		if c.ln != nil {
			c.ln.Close()
		}
		if err := removeLeftovers(c.o.Name); err != nil {
			c.progress("%v", err)
		}
		c.lock.release()
		c.progress("stopped")
	})
}

// Nodes are the names of the nodes.
func (c *Cluster) Nodes() []string {
	names := make([]string, c.o.Nodes)
	for i := range names {
		names[i] = node(i + 1).String()
	}
	return names
}

// Options are the options that the cluster was started with, defaults filled in.
func (c *Cluster) Options() Options { return c.o }

func (c *Cluster) logDir() string {
	if c.o.LogDir != "" {
		return c.o.LogDir
	}
	return filepath.Join(c.dir, "log")
}

func (c *Cluster) progress(format string, args ...any) {
	c.o.Log(fmt.Sprintf("%6.1fs %s", time.Since(c.start).Seconds(), fmt.Sprintf(format, args...)))
}

// BinDir holds kubectl and the other programs of Kubernetes.
func (c *Cluster) BinDir() string { return c.bins.Kube }

// WaitDNS waits until the cluster's CoreDNS is ready; Start does not, so that other things can be deployed meanwhile.
func (c *Cluster) WaitDNS(ctx context.Context) error {
	_, err := c.Kubectl.Run(ctx, "-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout="+c.o.Timeout.String())
	if err == nil {
		c.progress("CoreDNS ready")
	}
	return err
}
