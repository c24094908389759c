package cluster

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// startControlPlane starts etcd, the API server, the controller manager and the scheduler, all in the network and
// the cgroups of one machine.
func (c *Cluster) startControlPlane(ctx context.Context) error {
	if err := c.component("etcd", c.etcdFlags()); err != nil {
		return err
	}
	if err := c.component("kube-apiserver", c.apiServerFlags()); err != nil {
		return err
	}
	ready := func() bool { body, err := c.get(ctx, "/readyz"); return err == nil && body == "ok" }
	if err := c.until(ctx, "kube-apiserver", ready); err != nil {
		return err
	}
	c.progress("kube-apiserver ready")
	if err := c.component("kube-controller-manager", c.controllerManagerFlags()); err != nil {
		return err
	}
	return c.component("kube-scheduler", []string{
		"--kubeconfig=" + c.pki.path("kube-scheduler.kubeconfig"), "--leader-elect=false", "--bind-address=127.0.0.1",
	})
}

func (c *Cluster) component(name string, flags []string) error {
	argv, err := c.on(controlPlane, append([]string{c.bins.component(name)}, flags...)...)
	if err != nil {
		return err
	}
	return c.procs.start(name, nil, argv...)
}

func (c *Cluster) etcdFlags() []string {
	const client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
	return []string{
		"--data-dir=" + filepath.Join(c.dir, "etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=default=" + peer,
	}
}

func (c *Cluster) apiServerFlags() []string {
	const issuer = "https://kubernetes.default.svc.cluster.local"
	p := c.pki.path
	flags := []string{
		"--etcd-servers=http://127.0.0.1:2379", "--service-cluster-ip-range=" + c.both(serviceCIDR, serviceCIDR6),
		"--advertise-address=" + controlPlaneIP, "--bind-address=0.0.0.0", "--secure-port=6443",
		"--tls-cert-file=" + p("kube-apiserver.crt"), "--tls-private-key-file=" + p("kube-apiserver.key"), "--client-ca-file=" + p("ca.crt"),
		"--kubelet-client-certificate=" + p("apiserver-kubelet-client.crt"), "--kubelet-client-key=" + p("apiserver-kubelet-client.key"),
		"--kubelet-certificate-authority=" + p("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=" + issuer, "--service-account-key-file=" + p("sa.pub"), "--service-account-signing-key-file=" + p("sa.key"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true", "--profiling=false",
		// Webhooks and aggregated APIs: there is no kube-proxy beside the API server, so it dials pods itself.
		"--enable-aggregator-routing=true",
		"--requestheader-client-ca-file=" + p("ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + p("front-proxy-client.crt"), "--proxy-client-key-file=" + p("front-proxy-client.key"),
	}
	return append(flags, c.o.APIServerFlags...)
}

func (c *Cluster) controllerManagerFlags() []string {
	p := c.pki.path
	flags := []string{
		"--kubeconfig=" + p("kube-controller-manager.kubeconfig"), "--service-account-private-key-file=" + p("sa.key"),
		"--root-ca-file=" + p("ca.crt"), "--use-service-account-credentials", "--leader-elect=false", "--bind-address=127.0.0.1",
		"--cluster-signing-cert-file=" + p("ca.crt"), "--cluster-signing-key-file=" + p("ca.key"),
	}
	if c.o.NoNodes {
		// Nobody renews the nodes' leases, so their pods would be unready after a minute, and gone later.
		flags = append(flags, "--controllers=*,-node-lifecycle-controller,-taint-eviction-controller")
	}
	return append(flags, c.o.Profile.settings().ControllerManager...)
}

// StartProgram runs a program on the machine of the control plane, where it reaches the API server at APIServer. Its
// output goes to NAME.log, its PID is returned, and it ends with the cluster.
func (c *Cluster) StartProgram(name string, argv ...string) (pid int, err error) {
	if c.procs.find(name) != nil {
		return 0, fmt.Errorf("program %s runs already", name)
	}
	if argv, err = c.on(controlPlane, argv...); err != nil {
		return 0, err
	}
	if err := c.procs.start(name, nil, argv...); err != nil {
		return 0, err
	}
	return c.procs.find(name).cmd.Process.Pid, nil
}

// StopProgram kills a program that StartProgram started, and returns when it has ended.
func (c *Cluster) StopProgram(name string) error {
	p := c.procs.find(name)
	if p == nil {
		return fmt.Errorf("no program %q", name)
	}
	_ = p.cmd.Process.Kill() // it may have ended already
	<-p.done
	return nil
}

// APIServer is the URL of the API server inside the cluster's networks.
func (c *Cluster) APIServer() string { return "https://" + apiAddress }

// until polls; it ends early when the named process has died.
func (c *Cluster) until(ctx context.Context, process string, done func() bool) error {
	for !done() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w; the end of its log:\n%s", process, ctx.Err(), c.procs.tail(process))
		case name := <-c.procs.died:
			return fmt.Errorf("%s ended; the end of its log:\n%s", name, c.procs.tail(name))
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

// SignalControlPlane sends a signal to etcd, kube-apiserver, kube-controller-manager or kube-scheduler: SIGSTOP and
// SIGCONT make an outage. What is killed stays dead; see RestartControlPlane.
func (c *Cluster) SignalControlPlane(component string, sig syscall.Signal) error {
	return c.procs.signal(component, sig)
}

// RestartControlPlane kills a component of the control plane and starts it again, with more flags if given.
func (c *Cluster) RestartControlPlane(component string, flags ...string) error {
	p := c.procs.find(component)
	if p == nil || strings.HasPrefix(component, "node-") {
		return fmt.Errorf("no component %q of the control plane", component)
	}
	_ = p.cmd.Process.Kill() // it may be dead already
	<-p.done
	argv := append([]string(nil), p.cmd.Args...)
	return c.procs.start(component, nil, append(argv, flags...)...)
}
