package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/integration/cluster"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/status"
)

const (
	tunnelProtected = "e2e-tunnels"      // enforced
	tunnelOpen      = "e2e-tunnels-open" // not protected
	tunnelPort      = 15008

	byProxyLabel = "tulle.dev/e2e-proxy" // of the nodes that have a proxy
)

// tunnelSuite is servers on the first two nodes, "one" and "two", in a protected namespace and in one that isn't. The
// clients of all nodes call all of them.
type tunnelSuite struct {
	e *env
}

// tunnels: calls to pods of other nodes go from proxy to proxy, over mutual TLS that outlives certificates, roots and
// controllers.
func tunnels(t *testing.T, e *env) {
	e.needEmbedded(t)
	s := &tunnelSuite{e: e}
	defer s.settle(t, "tulle", time.Hour, 5*time.Minute)
	s.settle(t, "tulle", shortLife, rootSpread)
	e.run(t, "-n", meshNamespace, "rollout", "restart", "daemonset/tulle-proxy") // what they hold now lasts an hour
	s.rolledOut(t)
	s.deploy(t)
	t.Run("calls", s.calls)
	t.Run("strangers", s.strangers)
	t.Run("another node's identity", s.stolen)
	t.Run("who may sign", s.rights)
	t.Run("nothing is in the clear", func(t *testing.T) { s.capture(t, false) })
	t.Run("renewal and another root", s.rotation)
	t.Run("a roll-out of the proxies", s.rollout)
	t.Run("SIGKILL of the other node's worker", s.killWorker)
	t.Run("a node without a proxy", s.noProxy)
	t.Run("renewals without controllers", s.renewals)
	t.Run("without controllers", s.noControllers)
	t.Run("in the clear, if it has to be", func(t *testing.T) {
		s.under(t, "off", func() { s.settle(t, "off", time.Hour, 5*time.Minute) })
		s.capture(t, true)
		s.under(t, "on", func() { s.settle(t, "tulle", time.Hour, 5*time.Minute) })
		s.call(t, 0, 1, tunnelProtected)
	})
}

// settle changes what the mesh knows of identities.
func (s *tunnelSuite) settle(t *testing.T, mode string, life, spread time.Duration) {
	t.Helper()
	s.e.setValues(t, "--set", "identity.mode="+mode, "--set", "identity.svidLife="+life.String(), "--set", "identity.ca.spread="+spread.String())
	s.rolledOut(t)
}

// rolledOut waits until nothing of the mesh runs but what is to: what is about to end has metrics, too.
func (s *tunnelSuite) rolledOut(t *testing.T) {
	t.Helper()
	names := strings.Fields(s.e.run(t, "-n", meshNamespace, "get", "deployments", "-o", "name")) // some modes have no tulle-identity
	s.e.rollout(t, meshNamespace, append(names, "daemonset/tulle-proxy")...)
	s.e.inARow(t, "the end of the old proxies", 1, rolloutTimeout, func() error { return s.e.oneProxyEach(t) })
}

// under runs what under 200 requests a second between the first two nodes, half of them with bodies, which nobody may send
// twice. None of them fails.
func (s *tunnelSuite) under(t *testing.T, name string, what func()) {
	t.Helper()
	var loads []*load
	for i, c := range s.e.clients[:2] {
		host := []string{"two", "one"}[i]
		protected, open := "http://"+host+"."+tunnelProtected+".mesh./", "http://"+host+"."+tunnelOpen+".mesh./"
		loads = append(loads, c.load(t, name+"-get", "-rate", "50", "-per-conn", "20", protected, open),
			c.load(t, name+"-post", "-rate", "50", "-per-conn", "20", "-method", "POST", "-body", "a body", protected, open))
	}
	s.e.underWay(t, 2)
	what()
	s.e.underWay(t, 2)
	for _, l := range loads {
		got := l.stop(t)
		t.Logf("%s from %s: %d requests in %.0f s, the slowest took %.0f ms", l.name, l.client.node, got.Calls, got.Seconds, got.MaxMS)
		if got.Failed > 0 || got.ByStatus[200] != got.Calls || got.Calls == 0 {
			t.Errorf("%d of %d requests of %s from %s failed: by status %v, %v", got.Failed, got.Calls, l.name, l.client.node, got.ByStatus, got.Failures)
		}
	}
}

// rollout replaces all proxies. Those of the other node are called by tunnel all the while.
func (s *tunnelSuite) rollout(t *testing.T) {
	s.under(t, "roll-out", func() {
		s.e.run(t, "-n", meshNamespace, "rollout", "restart", "daemonset/tulle-proxy")
		s.rolledOut(t)
	})
	for _, c := range s.e.clients[:2] {
		if n := s.of(t, c.node); n.tunnelled == 0 {
			t.Errorf("the new proxy of %s has made no tunnels: %+v", c.node, n)
		}
	}
}

// killWorker: the second node's worker loses its keys with its life. The next one has others soon, and until then nothing that
// is protected goes in the clear.
func (s *tunnelSuite) killWorker(t *testing.T) {
	c, on := s.e.clients[0], s.e.clients[1].node
	before := s.of(t, c.node)
	url := "http://two." + tunnelProtected + ".mesh./"
	l := c.load(t, "killed", "-rate", "100", "-per-conn", "20", url)
	s.e.inARow(t, "the load", 2, settleTimeout, func() error { return c.allOK(t, "get", url) })
	for _, p := range s.e.proxies(t) {
		if p.node != on {
			continue
		}
		ps, err := s.e.embedded.ContainerProcesses(t.Context(), meshNamespace, p.name, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range ps {
			if strings.Contains(strings.Join(one.Args, " "), "worker") {
				if err := one.Signal(syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	s.e.inARow(t, "the load", 5, settleTimeout, func() error { return c.allOK(t, "get", url) })
	got := l.stop(t)
	t.Logf("worker killed: %d requests, %d failed, longest gap %.0f ms: %v, by status %v", got.Calls, got.Failed, got.GapMS, got.Errors, got.ByStatus)
	if got.GapMS >= float64(workerGap.Milliseconds()) {
		t.Errorf("no request succeeded for %.0f ms after the death of the other node's worker, want under %v", got.GapMS, workerGap)
	}
	if by := s.of(t, c.node).minus(before); by.plain > 0 || by.handshakes == 0 {
		t.Errorf("the proxy of %s: %+v", c.node, by)
	}
}

// stolen: whoever has a proxy's token gets the identities that run on its node, and no other; and what he gets is of no use
// from any other address.
func (s *tunnelSuite) stolen(t *testing.T) {
	e := s.e
	var here, there pod
	for _, p := range e.proxies(t) {
		switch p.node {
		case e.clients[0].node:
			here = p
		case e.clients[1].node:
			there = p
		}
	}
	token := e.token(t, meshNamespace, "tulle-proxy", "tulle-identity", here.name)
	controller := e.pods(t, meshNamespace, "app.kubernetes.io/component=controller")[0]
	key, csr, err := identity.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	var mine [][]byte
	for _, tc := range []struct {
		what, token, namespace, account string
		want                            codes.Code
	}{
		{"what runs there", token, tunnelProtected, "one", codes.OK},
		{"the proxy's own", token, meshNamespace, "tulle-proxy", codes.OK},
		{"what runs on another node", token, tunnelProtected, "two", codes.PermissionDenied},
		{"what runs nowhere", token, "kube-system", "default", codes.PermissionDenied},
		{"another node's token", e.token(t, meshNamespace, "tulle-proxy", "tulle-identity", there.name), tunnelProtected, "one", codes.PermissionDenied},
		{"a token of no pod", e.token(t, meshNamespace, "tulle-proxy", "tulle-identity", ""), tunnelProtected, "one", codes.Unauthenticated},
		{"a workload's token", e.token(t, clientNamespace, "default", "tulle-identity", e.clients[0].pod), clientNamespace, "default", codes.Unauthenticated},
		{"a token that controllers are shown", e.token(t, meshNamespace, "tulle-proxy", "tulle", here.name), tunnelProtected, "one", codes.Unauthenticated},
		{"a controller's token", e.token(t, meshNamespace, "tulle-controller", "tulle-identity", controller.name), meshNamespace, "tulle-controller", codes.Unauthenticated},
		{"no token", "", tunnelProtected, "one", codes.Unauthenticated},
	} {
		chain, err := s.sign(t, tc.token, tc.namespace, tc.account, csr)
		if grpcstatus.Code(err) != tc.want {
			t.Errorf("%s: %v, want %v", tc.what, err, tc.want)
		}
		if tc.account == "one" && err == nil {
			mine = chain
		}
	}
	if mine == nil {
		t.FailNow()
	}
	if got := s.use(t, there, tls.Certificate{Certificate: mine, PrivateKey: key}); got != "unknown-peer" {
		t.Errorf("a certificate of the first node's proxy, used by somebody else at the second node's: %q", got)
	}
}

// rights: the CA's key is read, and identities are certified, by tulle-identity alone.
func (s *tunnelSuite) rights(t *testing.T) {
	for _, account := range []string{"tulle-identity", "tulle-controller", "tulle-proxy"} {
		for _, verb := range []string{"get", "list", "watch", "update", "patch", "delete"} {
			out, err := s.e.try(t, "-n", meshNamespace, "auth", "can-i", verb, "secrets/tulle-identity-ca", "--as=system:serviceaccount:"+meshNamespace+":"+account)
			want := "no"
			if account == "tulle-identity" && slices.Contains([]string{"get", "update", "patch"}, verb) {
				want = "yes"
			}
			if got := strings.TrimSpace(out); got != want {
				t.Errorf("may %s %s the CA's Secret: %q (%v), want %q", account, verb, got, err, want)
			}
		}
	}
	_, csr, err := identity.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	proxy, controller := s.e.proxies(t)[0], s.e.pods(t, meshNamespace, "app.kubernetes.io/component=controller")[0]
	chain, err := s.ask(t, streamConfig{
		dial: s.e.dialer(t, controller, pushPort), roots: s.e.meshCA(t), token: s.e.token(t, meshNamespace, "tulle-proxy", "tulle", proxy.name),
	}, meshNamespace, "tulle-proxy", csr)
	if grpcstatus.Code(err) != codes.Unimplemented {
		t.Errorf("a controller that is asked for a certificate: %v, %d certificates", err, len(chain))
	}
}

// sign asks tulle-identity for a certificate. It is known by its own CA.
func (s *tunnelSuite) sign(t *testing.T, token, namespace, account string, csr []byte) ([][]byte, error) {
	t.Helper()
	e := s.e
	td, err := identity.ParseTrustDomain("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	roots, err := identity.ParseRoots(td, []byte(e.run(t, "-n", meshNamespace, "get", "configmap", "tulle-trust", "-o", `jsonpath={.data.ca\.crt}`)))
	if err != nil {
		t.Fatal(err)
	}
	id, err := identity.Account(td, meshNamespace, "tulle-identity")
	if err != nil {
		t.Fatal(err)
	}
	signer := e.pods(t, meshNamespace, "app.kubernetes.io/component=identity")[0]
	return s.ask(t, streamConfig{dial: e.dialer(t, signer, signPort), tls: identity.Expect(roots, id), token: token}, namespace, account, csr)
}

// ask asks whoever is there for a certificate.
func (s *tunnelSuite) ask(t *testing.T, c streamConfig, namespace, account string, csr []byte) ([][]byte, error) {
	t.Helper()
	conn, err := c.connect()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), execTimeout)
	defer cancel()
	var resp configv1.SignResponse
	err = conn.Invoke(ctx, "/tulle.config.v1.Identity/Sign", &configv1.SignRequest{Namespace: namespace, ServiceAccount: account, Csr: csr}, &resp)
	return resp.GetChain(), err
}

// use opens a tunnel by hand and says why it is refused.
func (s *tunnelSuite) use(t *testing.T, at pod, certificate tls.Certificate) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), execTimeout)
	defer cancel()
	raw, err := s.e.embedded.DialIn(ctx, at.node, net.JoinHostPort(at.ip, fmt.Sprint(tunnelPort)))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	c := tls.Client(raw, &tls.Config{
		NextProtos: []string{"tulle-tunnel/1"}, MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate},
		InsecureSkipVerify: true, //nolint:gosec // who answers is not the question
	})
	if err := c.SetDeadline(time.Now().Add(settleTimeout)); err != nil {
		t.Fatal(err)
	}
	server := s.e.pods(t, tunnelProtected, "app=two")[0]
	preamble, err := json.Marshal(map[string]any{
		"address": server.ip + ":9000", "pod": tunnelProtected + "/two", "service": tunnelProtected + "/two", "port": 9000,
	})
	if err != nil {
		t.Fatal(err)
	}
	const open, refused = 1, 3
	if _, err := c.Write(append([]byte{open, byte(len(preamble) >> 8), byte(len(preamble))}, preamble...)); err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 3)
	if _, err := io.ReadFull(c, head); err != nil {
		t.Fatal(err)
	}
	why := make([]byte, int(head[1])<<8|int(head[2]))
	if _, err := io.ReadFull(c, why); err != nil {
		t.Fatal(err)
	}
	if head[0] != refused {
		t.Fatalf("it was answered with %d %q", head[0], why)
	}
	return string(why)
}

func (s *tunnelSuite) deploy(t *testing.T) {
	for ns, label := range map[string]string{tunnelProtected: "tulle.dev/access: enforce", tunnelOpen: `tulle.dev/access: "off"`} {
		s.e.namespace(t, ns, label)
		for i, name := range []string{"one", "two"} {
			s.e.apply(t, ns, file(t, "tunnels.yaml", "$NAME", name, "$NODE", s.e.clients[i].node))
		}
		s.e.run(t, "-n", ns, "wait", "--for=condition=Ready", "pods", "--all", "--timeout="+rolloutTimeout.String())
	}
}

// forms are a call in every protocol that says the text to the server, and gets it back.
func forms(name, ns, text string) map[string][]string {
	host := name + "." + ns + ".mesh."
	head := []string{"-method", "POST", "-body", text, "-H", "X-Text: " + text, "http://" + host + "/" + text}
	return map[string][]string{
		"http": append([]string{"get", "-n", "20", "-c", "4", "-keepalive"}, head...),
		"h2c":  append([]string{"get", "-n", "20", "-c", "4", "-keepalive", "-h2c"}, head...),
		"tcp":  {"tcp", "-n", "20", "-c", "4", "-send", text, host + ":9000"},
		"udp":  {"udp", "-n", "20", "-c", "4", "-send", text, host + ":9002"},
	}
}

// calls: all of them pass, those to the other node by tunnels alone, and the server knows who calls.
func (s *tunnelSuite) calls(t *testing.T) {
	for i, c := range s.e.clients[:2] { // what isn't protected doesn't wait for certificates, nor for proxies
		s.e.inARow(t, "tunnels", 2, settleTimeout, func() error {
			before := s.of(t, c.node)
			if err := c.allOK(t, forms([]string{"two", "one"}[i], tunnelOpen, "hello")["tcp"]...); err != nil {
				return err
			}
			if by := s.of(t, c.node).minus(before); by.plain > 0 || by.tunnelled < 20 {
				return fmt.Errorf("the proxy of %s: %+v", c.node, by)
			}
			return nil
		})
	}
	for i := range s.e.clients[:2] {
		for j := range s.e.clients[:2] {
			s.call(t, i, j, tunnelProtected)
			s.call(t, i, j, tunnelOpen)
		}
	}
	for _, c := range s.e.clients[:2] {
		if n := s.of(t, c.node); n.tunnelled == 0 || n.kept == 0 {
			t.Errorf("the proxy of %s has made no tunnels, or used none twice: %+v", c.node, n)
		}
	}
}

// call calls from a node to the server of another one, or of its own, in all protocols.
func (s *tunnelSuite) call(t *testing.T, from, to int, ns string) {
	c, name := s.e.clients[from], []string{"one", "two"}[to]
	t.Run(fmt.Sprintf("from %s to %s in %s", c.node, name, ns), func(t *testing.T) {
		for protocol, args := range forms(name, ns, "hello") {
			s.e.inARow(t, protocol, 2, settleTimeout, func() error { return c.allOK(t, args...) })
			before := s.of(t, c.node)
			got := c.call(t, args...)
			if got.OK != 20 || got.ByPod[name] != 20 || got.Last == nil {
				t.Errorf("%s: %+v", protocol, got)
				continue
			}
			by := s.of(t, c.node).minus(before)
			if by.plain != 0 || (by.tunnelled > 0 || by.kept > 0) && from == to {
				t.Errorf("%s: %+v", protocol, by)
			}
			if from != to && protocol == "tcp" && by.tunnelled < 20 { // the others go on with those that they have
				t.Errorf("%s went by no tunnel: %+v", protocol, by)
			}
			s.sawCaller(t, protocol, got.Last.Headers["X-Forwarded-Client-Cert"], "spiffe://cluster.local/ns/"+ns+"/sa/"+name)
		}
	})
}

func (s *tunnelSuite) sawCaller(t *testing.T, protocol string, values []string, server string) {
	t.Helper()
	if want := "By=" + server + ";URI=spiffe://cluster.local/ns/" + clientNamespace + "/sa/default"; (protocol == "http" || protocol == "h2c") && !slices.Equal(values, []string{want}) {
		t.Errorf("%s: the server was told %q, want %q", protocol, values, want)
	}
}

// strangers get through to what isn't protected, and are refused by what is, on either node.
func (s *tunnelSuite) strangers(t *testing.T) {
	ns := s.e.namespace(t, "e2e-tunnels-strangers")
	s.e.apply(t, ns, file(t, "clients.yaml"))
	s.e.rollout(t, ns, "daemonset/client")
	for _, c := range s.e.clientsOf(t, ns, "app=client")[:2] {
		for _, name := range []string{"one", "two"} {
			s.e.inARow(t, "refusals", 2, settleTimeout, func() error {
				if got := c.call(t, "get", "-n", "5", "http://"+name+"."+tunnelProtected+".mesh./"); got.ByStatus[403] != 5 || got.LastReply["Tulle-Reason"] != "source-denied" {
					return fmt.Errorf("from %s to %s: %+v", c.node, name, got)
				}
				if got := c.call(t, "tcp", "-n", "5", name+"."+tunnelProtected+".mesh.:9000"); got.OK != 0 {
					return fmt.Errorf("from %s to %s by TCP: %+v", c.node, name, got)
				}
				return c.allOK(t, "get", "-n", "5", "http://"+name+"."+tunnelOpen+".mesh./")
			})
		}
	}
}

// ways is how a proxy has carried calls to other nodes.
type ways struct{ tunnelled, kept, plain, handshakes float64 }

func (w ways) minus(o ways) ways {
	return ways{w.tunnelled - o.tunnelled, w.kept - o.kept, w.plain - o.plain, w.handshakes - o.handshakes}
}

func (s *tunnelSuite) of(t *testing.T, node string) (w ways) {
	t.Helper()
	for _, p := range s.e.proxies(t) {
		if p.node == node {
			m := s.e.metrics(t, p, proxyMetricsPort)
			w.tunnelled += m.sum("tulle_proxy_tunnel_client_connections_total", nil)
			w.kept += m.sum("tulle_proxy_tunnel_client_reused_total", nil)
			w.plain += m.sum("tulle_proxy_plain_total", nil)
			w.handshakes += m.sum("tulle_proxy_tunnel_client_handshakes_total", nil)
		}
	}
	return w
}

// capture looks at the cable of the second node while it is called, and calls, in all protocols.
func (s *tunnelSuite) capture(t *testing.T, want bool) {
	var texts []string
	text := func(protocol string, from int) string {
		return fmt.Sprintf("a-text-that-is-in-no-other-packet-%s-%d", protocol, from)
	}
	for _, protocol := range []string{"http", "h2c", "tcp", "udp"} {
		texts = append(texts, text(protocol, 0), text(protocol, 1))
	}
	// Also what changes protocol or node while a mode takes effect is through with it by then.
	for i, c := range s.e.clients[:2] {
		for _, args := range forms([]string{"two", "one"}[i], tunnelProtected, "hello") {
			s.e.inARow(t, "calls", 2, settleTimeout, func() error { return c.allOK(t, args...) })
		}
	}
	capture, err := s.e.embedded.Capture(s.e.clients[1].node, texts...)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range s.e.clients[:2] {
		for _, protocol := range []string{"http", "h2c", "tcp", "udp"} {
			for _, ns := range []string{tunnelProtected, tunnelOpen} {
				if err := c.allOK(t, forms([]string{"two", "one"}[i], ns, text(protocol, i))[protocol]...); err != nil {
					t.Error(err)
				}
			}
		}
	}
	seen, err := capture.Stop()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", seen)
	s.judge(t, seen, texts, want)
}

func (s *tunnelSuite) judge(t *testing.T, seen cluster.Seen, texts []string, want bool) {
	t.Helper()
	if seen.Packets < 100 || seen.Lost > 0 {
		t.Errorf("%d packets were seen, and %d were not", seen.Packets, seen.Lost)
	}
	for _, text := range texts {
		if n := seen.Found[text]; (n > 0) != want {
			t.Errorf("%q was in %d packets", text, n)
		}
	}
}

// rotation: certificates are renewed and the root is replaced under 200 requests a second, and none of them fails.
func (s *tunnelSuite) rotation(t *testing.T) {
	before := map[string]served{}
	for _, p := range s.e.proxies(t) {
		before[p.name] = s.served(t, p)
	}
	from := s.of(t, s.e.clients[0].node)
	var loads []*load
	for i, c := range s.e.clients[:2] {
		name := []string{"two", "one"}[i]
		loads = append(loads, c.load(t, "rotation", "-rate", "100", "-per-conn", "50", "http://"+name+"."+tunnelProtected+".mesh./", "http://"+name+"."+tunnelOpen+".mesh./"))
	}
	s.e.underWay(t, 2)
	s.e.run(t, "-n", meshNamespace, "annotate", "--overwrite", "secret", "tulle-identity-ca", "tulle.dev/rotate=now")
	s.e.inARow(t, "certificates by the new root", 1, 3*settleTimeout, func() error {
		for _, p := range s.e.proxies(t) {
			now, was := s.served(t, p), before[p.name]
			if now.root == was.root || now.serial == was.serial {
				return fmt.Errorf("the proxy of %s shows certificate %s by root %s", p.node, now.serial, now.root)
			}
		}
		return nil
	})
	renewed := time.Now()
	for _, p := range s.e.proxies(t) { // and once more, by the same root
		was := s.served(t, p)
		s.e.eventually(t, "another renewal", func() error {
			if now := s.served(t, p); now.serial == was.serial {
				return fmt.Errorf("the proxy of %s has shown certificate %s for %v", p.node, now.serial, time.Since(renewed))
			}
			return nil
		})
	}
	for _, l := range loads {
		got := l.stop(t)
		t.Logf("from %s: %d requests in %.0f s, the slowest took %.0f ms", l.client.node, got.Calls, got.Seconds, got.MaxMS)
		if got.Failed > 0 || got.ByStatus[200] != got.Calls || float64(got.Calls) < 90*got.Seconds {
			t.Errorf("%d of %d requests from %s failed: %v, by status %v", got.Failed, got.Calls, l.client.node, got.Errors, got.ByStatus)
		}
	}
	if by := s.of(t, s.e.clients[0].node).minus(from); by.handshakes == 0 || by.plain > 0 {
		t.Errorf("the proxy of %s: %+v", s.e.clients[0].node, by)
	}
}

// served is what a proxy shows to others.
type served struct{ serial, root string }

// served asks a proxy for its certificate, as anybody may, and finds out which of the mesh's roots is behind it.
func (s *tunnelSuite) served(t *testing.T, p pod) served {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), execTimeout)
	defer cancel()
	raw, err := s.e.embedded.DialIn(ctx, p.node, net.JoinHostPort(p.ip, fmt.Sprint(tunnelPort)))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	var shown []*x509.Certificate
	c := tls.Client(raw, &tls.Config{
		NextProtos: []string{"tulle-tunnel/1"}, MinVersion: tls.VersionTLS13,
		InsecureSkipVerify: true, //nolint:gosec // it is looked at below
		VerifyConnection: func(state tls.ConnectionState) error {
			shown = state.PeerCertificates
			return errEnough
		},
	})
	if err := c.HandshakeContext(ctx); !errors.Is(err, errEnough) {
		t.Fatal(err)
	}
	chain := x509.NewCertPool()
	for _, ca := range shown[1:] {
		chain.AddCert(ca)
	}
	rest := []byte(s.e.run(t, "-n", meshNamespace, "get", "configmap", "tulle-trust", "-o", `jsonpath={.data.ca\.crt}`))
	for block, rest := pem.Decode(rest); block != nil; block, rest = pem.Decode(rest) {
		root, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AddCert(root)
		if _, err := shown[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: chain, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
			return served{shown[0].SerialNumber.String(), root.SerialNumber.String()}
		}
	}
	t.Fatalf("the proxy of %s shows a certificate by no root of the mesh: %v", p.node, shown[0])
	return served{}
}

var errEnough = errors.New("enough was seen")

// noProxy: pods of a node without a proxy are no endpoints where they are protected, and called in the clear where they
// are not.
func (s *tunnelSuite) noProxy(t *testing.T) {
	e, c, without := s.e, s.e.clients[0], s.e.clients[1].node
	e.run(t, "label", "nodes", "--all", "--overwrite", byProxyLabel+"=yes")
	patch := func(value string) {
		e.run(t, "-n", meshNamespace, "patch", "daemonset", "tulle-proxy", "--type=strategic", "-p",
			`{"spec": {"template": {"spec": {"nodeSelector": {"`+byProxyLabel+`": `+value+`}}}}}`)
		e.rollout(t, meshNamespace, "daemonset/tulle-proxy")
	}
	patch(`"yes"`)
	defer func() {
		e.run(t, "label", "nodes", "--all", "--overwrite", byProxyLabel+"=yes")
		patch("null")
		s.rolledOut(t)
		e.run(t, "label", "nodes", "--all", byProxyLabel+"-")
	}()
	e.run(t, "label", "node", without, byProxyLabel+"-")
	e.inARow(t, "503", 3, settleTimeout, func() error {
		for _, h2c := range []string{"-h2c=false", "-h2c=true"} {
			got := c.call(t, "get", "-n", "5", h2c, "http://two."+tunnelProtected+".mesh./")
			if got.ByStatus[503] != 5 || got.LastReply["Tulle-Reason"] != "no-proxy-at-destination" {
				return fmt.Errorf("%s: by status %v, %v", h2c, got.ByStatus, got.LastReply)
			}
		}
		return nil
	})
	before := s.of(t, c.node)
	for protocol, args := range forms("two", tunnelOpen, "hello") {
		if err := c.allOK(t, args...); err != nil {
			t.Errorf("not protected, by %s: %v", protocol, err)
		}
	}
	if by := s.of(t, c.node).minus(before); by.plain == 0 || by.tunnelled != 0 {
		t.Errorf("what isn't protected: %+v", by)
	}
	for _, protocol := range []string{"tcp", "udp"} {
		if got := c.call(t, slices.Insert(forms("two", tunnelProtected, "hello")[protocol], 1, "-timeout", "1s")...); got.OK != 0 {
			t.Errorf("protected, by %s: %+v", protocol, got)
		}
	}
	for protocol, args := range forms("one", tunnelProtected, "hello") { // nothing is wrong on the own node
		if err := c.allOK(t, args...); err != nil {
			t.Errorf("on the own node, by %s: %v", protocol, err)
		}
	}
	e.eventually(t, "tulle status", func() error {
		out, err := e.tulle(t, e.release, "status", "-o", "json")
		if err != nil {
			return err
		}
		var st status.Status
		if err := json.Unmarshal([]byte(out), &st); err != nil {
			return err
		}
		if id := st.Leader.Identity; id == nil || !slices.Equal(id.WithoutProxy, []string{without}) {
			return fmt.Errorf("it says %+v", id)
		}
		return nil
	})
	e.run(t, "label", "node", without, byProxyLabel+"=yes")
	e.inARow(t, "calls again", 3, settleTimeout, func() error { return c.allOK(t, forms("two", tunnelProtected, "hello")["http"]...) })
}

// without stops parts of the control plane, and returns what starts them again.
func (s *tunnelSuite) without(t *testing.T, components ...string) (again func()) {
	t.Helper()
	for _, c := range components {
		s.e.run(t, "-n", meshNamespace, "scale", "deployment/tulle-"+c, "--replicas=0")
	}
	for _, c := range components {
		s.e.eventually(t, "the end of "+c, func() error {
			if left := s.e.run(t, "-n", meshNamespace, "get", "pods", "-l", "app.kubernetes.io/component="+c, "-o", "name"); left != "" {
				return fmt.Errorf("there are %q", left)
			}
			return nil
		})
	}
	return func() {
		for _, c := range components {
			s.e.run(t, "-n", meshNamespace, "scale", "deployment/tulle-"+c, "--replicas=2")
		}
		for _, c := range components {
			s.e.rollout(t, meshNamespace, "deployment/tulle-"+c)
		}
	}
}

// renewals: certificates are renewed without controllers, time and again.
func (s *tunnelSuite) renewals(t *testing.T) {
	defer s.without(t, "controller")()
	for range 2 {
		before := map[string]served{}
		for _, p := range s.e.proxies(t) {
			before[p.name] = s.served(t, p)
		}
		s.e.inARow(t, "renewals", 1, settleTimeout, func() error {
			for _, p := range s.e.proxies(t) {
				if now := s.served(t, p); now.serial == before[p.name].serial {
					return fmt.Errorf("the proxy of %s still shows certificate %s", p.node, now.serial)
				}
			}
			return nil
		})
	}
	if err := s.each(t, func(m metrics) error {
		// Nobody tells the proxies that the controllers' own account runs nowhere now; they are told when they ask for it.
		if all, held := m.sum("tulle_proxy_identities", nil), m.sum("tulle_proxy_svids", nil); held < all-1 || held < 2 {
			return fmt.Errorf("%v of %v identities have certificates", held, all)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// noControllers: nobody renews certificates either, for longer than half of their life, and every call to the other node goes
// by a tunnel all the same. The pods' own addresses count for as long, so that the destination only audits.
func (s *tunnelSuite) noControllers(t *testing.T) {
	e := s.e
	s.settle(t, "tulle", outageLife, rootSpread)
	e.run(t, "label", "--overwrite", "namespace", tunnelProtected, "tulle.dev/access=audit")
	defer e.run(t, "label", "--overwrite", "namespace", tunnelProtected, "tulle.dev/access=enforce")
	// Those that last short are all renewed within seconds of each other, and by half of that life none of them ends. Only that
	// of an account whose pods were gone for a while (the controllers' own) may take a minute: it is denied, and asked for
	// ever less often.
	e.inARow(t, "certificates that last longer", 1, outageLife, func() error {
		return s.each(t, func(m metrics) error {
			if all, held := m.sum("tulle_proxy_identities", nil), m.sum("tulle_proxy_svids", nil); held < all {
				return fmt.Errorf("%v of %v are valid", held, all)
			}
			if left := time.Until(time.Unix(int64(m.sum("tulle_proxy_svid_expiry_timestamp_seconds", nil)), 0)); left < outageLife*7/10 {
				return fmt.Errorf("the first ends in %v", left)
			}
			return nil
		})
	})
	defer s.without(t, "controller", "identity")()
	before := s.of(t, e.clients[0].node)
	var loads []*load
	for i, c := range e.clients[:2] {
		loads = append(loads, c.load(t, "outage", "-rate", "100", "-per-conn", "5", "http://"+[]string{"two", "one"}[i]+"."+tunnelProtected+".mesh./"))
	}
	e.inARow(t, "renewals that are overdue", 1, outageLife, func() error {
		return s.each(t, func(m metrics) error {
			if overdue, all := m.sum("tulle_proxy_svids_overdue", nil), m.sum("tulle_proxy_identities", nil); overdue < all {
				return fmt.Errorf("%v of %v, %v are valid", overdue, all, m.sum("tulle_proxy_svids", nil))
			}
			return nil
		})
	})
	e.eventually(t, "tulle check", func() error {
		if _, err := e.tulle(t, e.release, "check"); err == nil || !strings.Contains(err.Error(), "certificates that should have been renewed") {
			return fmt.Errorf("it doesn't warn: %w", err)
		}
		return nil
	})
	for _, l := range loads {
		if got := l.stop(t); got.Failed > 0 || got.ByStatus[200] != got.Calls || got.Calls == 0 {
			t.Errorf("%d of %d requests from %s failed, the slowest took %.0f ms: %v, by status %v", got.Failed, got.Calls, l.client.node, got.MaxMS, got.Errors, got.ByStatus)
		}
	}
	for _, c := range e.clients[:2] { // also on new connections
		for protocol, args := range forms([]string{"two", "one"}[slices.Index(e.clients, c)], tunnelProtected, "hello") {
			if err := c.allOK(t, args...); err != nil {
				t.Errorf("%s: %v", protocol, err)
			}
		}
	}
	if by := s.of(t, e.clients[0].node).minus(before); by.plain > 0 || by.tunnelled == 0 {
		t.Errorf("the proxy of %s: %+v", e.clients[0].node, by)
	}
}

// each looks at the metrics of all proxies.
func (s *tunnelSuite) each(t *testing.T, look func(metrics) error) error {
	t.Helper()
	for _, p := range s.e.proxies(t) {
		if err := look(s.e.metrics(t, p, proxyMetricsPort)); err != nil {
			return fmt.Errorf("the proxy of %s: %w", p.node, err)
		}
	}
	return nil
}
