package traefik_test

import (
	"bufio"
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"testing"
	"time"
)

// loopback is an address of this test process alone, so that several can run at a time on one machine.
func loopback(rest string) string {
	return fmt.Sprintf("127.%d.%d.%s", 100+os.Getpid()%100, os.Getpid()/100%250, rest)
}

// backends answer on addresses of the loopback, each with who it is. One address and port can speak HTTP/1, h2c, TLS and
// UDP; on TCP it answers what looks like HTTP.
type backends struct {
	t    *testing.T
	tls  *tls.Config
	http http.Server
	open map[string]bool
}

func newBackends(t *testing.T) *backends {
	t.Helper()
	b := &backends{t: t, open: map[string]bool{}, tls: &tls.Config{Certificates: []tls.Certificate{certificate(t)}, NextProtos: []string{"h2", "http/1.1"}}}
	b.http.Handler = http.HandlerFunc(answer)
	b.http.Protocols = new(http.Protocols)
	b.http.Protocols.SetHTTP1(true)
	b.http.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(func() { _ = b.http.Close() })
	return b
}

// answer says what reached the backend, with the values of one header.
func answer(w http.ResponseWriter, r *http.Request) {
	who, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	fmt.Fprintf(w, "%s %s %s %s %q", who, r.Method, r.RequestURI, r.Host, r.Header.Values(cmp.Or(r.Header.Get("X-Tell"), "X-A")))
}

// add opens an address, once.
func (b *backends) add(address string, udp bool) {
	key := fmt.Sprint(address, udp)
	if b.open[key] {
		return
	}
	b.open[key] = true
	if a, err := netip.ParseAddrPort(address); err != nil || !a.Addr().IsLoopback() {
		b.t.Fatalf("%s is not of the loopback", address)
	}
	if udp {
		b.addUDP(address)
		return
	}
	l, err := (&net.ListenConfig{}).Listen(b.t.Context(), "tcp", address)
	if err != nil {
		b.t.Fatal(err)
	}
	go func() { _ = b.http.Serve(sniffer{l, b.tls}) }()
}

func (b *backends) addUDP(address string) {
	p, err := (&net.ListenConfig{}).ListenPacket(b.t.Context(), "udp", address)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { p.Close() })
	go func() {
		for buffer := make([]byte, 2048); ; {
			n, from, err := p.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = p.WriteTo([]byte(address+" "+string(buffer[:n])), from)
		}
	}()
}

// sniffer speaks TLS with whoever begins with it.
type sniffer struct {
	net.Listener
	config *tls.Config
}

func (s sniffer) Accept() (net.Conn, error) {
	c, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &sniffed{Conn: c, config: s.config}, nil
}

// sniffed decides with its first byte, in the goroutine that serves it.
type sniffed struct {
	net.Conn
	config  *tls.Config
	decided bool
	reader  *bufio.Reader
}

func (s *sniffed) Read(p []byte) (int, error) {
	if !s.decided {
		s.decided, s.reader = true, bufio.NewReader(s.Conn)
		if first, err := s.reader.Peek(1); err == nil && first[0] == 0x16 {
			s.Conn = tls.Server(&replayed{s.Conn, s.reader}, &tls.Config{Certificates: s.config.Certificates})
			s.reader = bufio.NewReader(s.Conn)
		}
	}
	return s.reader.Read(p)
}

type replayed struct {
	net.Conn
	reader *bufio.Reader
}

func (r *replayed) Read(p []byte) (int, error) { return r.reader.Read(p) }

func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
