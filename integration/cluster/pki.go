package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// pki makes a certificate authority and what it signs, as PEM files in one folder.
type pki struct {
	dir    string
	ca     *x509.Certificate
	key    *ecdsa.PrivateKey
	serial int64
}

func newPKI(dir string) (*pki, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	p := &pki{dir: dir, key: key, serial: 1}
	t := certificate(1, pkix.Name{CommonName: "kubernetes-ca"})
	t.IsCA, t.BasicConstraintsValid, t.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	if p.ca, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	return p, errors.Join(p.writePair("ca", der, key), p.writeServiceAccountKey())
}

func certificate(serial int64, subject pkix.Name) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: subject, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0)}
}

func (p *pki) path(name string) string { return filepath.Join(p.dir, name) }

func (p *pki) writeServiceAccountKey() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	pub, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	return errors.Join(p.writePEM("sa.pub", "PUBLIC KEY", pub), p.writeKey("sa", key))
}

func (p *pki) writePEM(file, kind string, der []byte) error {
	return os.WriteFile(p.path(file), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

func (p *pki) writeKey(name string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return p.writePEM(name+".key", "EC PRIVATE KEY", der)
}

func (p *pki) writePair(name string, der []byte, key *ecdsa.PrivateKey) error {
	return errors.Join(p.writePEM(name+".crt", "CERTIFICATE", der), p.writeKey(name, key))
}

// identity is the subject of a certificate for both ends of TLS; names are DNS names and IP addresses.
type identity struct {
	file, user, group string
	names             []string
}

func (p *pki) issue(id identity) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	p.serial++
	t := certificate(p.serial, pkix.Name{CommonName: id.user})
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	if id.group != "" {
		t.Subject.Organization = []string{id.group}
	}
	for _, n := range id.names {
		if ip := net.ParseIP(n); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, p.ca, key.Public(), p.key)
	if err != nil {
		return fmt.Errorf("sign %s: %w", id.file, err)
	}
	return p.writePair(id.file, der, key)
}

// kubeconfig writes NAME.kubeconfig, with the credentials in it, and returns its path.
func (p *pki) kubeconfig(name, server string) (string, error) {
	var b64 [3]string
	for i, file := range []string{"ca.crt", name + ".crt", name + ".key"} {
		b, err := os.ReadFile(p.path(file))
		if err != nil {
			return "", err
		}
		b64[i] = base64.StdEncoding.EncodeToString(b)
	}
	path := p.path(name + ".kubeconfig")
	return path, render(path, "kubeconfig.tmpl", struct{ Server, CA, Cert, Key string }{server, b64[0], b64[1], b64[2]})
}

// certificates makes all that the cluster's components need, and the administrator's way in.
func (c *Cluster) certificates() error {
	p, err := newPKI(filepath.Join(c.dir, "pki"))
	if err != nil {
		return err
	}
	c.pki = p
	ids := []identity{
		{file: "kube-apiserver", user: "kube-apiserver", names: []string{
			"kubernetes", "kubernetes.default", "kubernetes.default.svc",
			"kubernetes.default.svc.cluster.local", "localhost", "127.0.0.1", apiServiceIP, controlPlaneIP,
		}},
		{file: "apiserver-kubelet-client", user: "kube-apiserver-kubelet-client", group: "system:masters"},
		{file: "front-proxy-client", user: "front-proxy-client"},
		{file: "admin", user: "admin", group: "system:masters"},
		{file: "kube-controller-manager", user: "system:kube-controller-manager"},
		{file: "kube-scheduler", user: "system:kube-scheduler"},
		{file: "kube-proxy", user: "system:kube-proxy"},
	}
	if c.o.NetworkPolicies {
		ids = append(ids, identity{file: "kube-router", user: "kube-router", group: "system:masters"})
	}
	for i := range c.o.Nodes {
		n := node(i + 1)
		ids = append(ids, identity{file: n.String(), user: "system:node:" + n.String(), group: "system:nodes", names: []string{n.String(), n.ip()}})
	}
	if c.ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return err
	}
	go c.forward()
	for _, id := range ids {
		if err := p.issue(id); err != nil {
			return err
		}
		server := "https://" + apiAddress
		if id.file == "admin" {
			server = "https://" + c.ln.Addr().String()
		}
		if _, err := p.kubeconfig(id.file, server); err != nil {
			return err
		}
	}
	c.Kubeconfig = p.path("admin.kubeconfig")
	c.Kubectl = Kubectl{Program: c.bins.component("kubectl"), Kubeconfig: c.Kubeconfig}
	return nil
}
