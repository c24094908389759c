package cluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
)

// Kubectl runs kubectl against one cluster.
type Kubectl struct {
	Program    string // default: kubectl from PATH
	Kubeconfig string
}

// Run returns what kubectl prints on its standard output; the error holds the rest.
func (k Kubectl) Run(ctx context.Context, args ...string) (string, error) {
	return k.Apply(ctx, "", args...)
}

// Apply is Run with a standard input, as for `apply -f -`.
func (k Kubectl) Apply(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := k.Command(ctx, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(errs.Bytes()))
	}
	return out.String(), nil
}

// Command is a kubectl that is not started yet, for those that run long.
func (k Kubectl) Command(ctx context.Context, args ...string) *exec.Cmd {
	program := k.Program
	if program == "" {
		program = "kubectl"
	}
	return exec.CommandContext(ctx, program, append([]string{"--kubeconfig=" + k.Kubeconfig}, args...)...)
}

// get asks the API server; cheaper than a kubectl per question.
func (c *Cluster) get(ctx context.Context, path string) (string, error) {
	client, err := c.client()
	if err != nil {
		return "", err
	}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+apiAddress+path, nil)
	if err != nil {
		return "", err
	}
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("get %s: %s", path, res.Status)
	}
	return string(body), err
}

func (c *Cluster) client() (*http.Client, error) {
	cert, err := tls.LoadX509KeyPair(c.pki.path("admin.crt"), c.pki.path("admin.key"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(c.pki.path("ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}},
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return c.DialIn(ctx, controlPlane, addr)
		},
	}}, nil
}
