package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

func (s *server) http(ctx context.Context, addr string) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	s.serveHTTP(ctx, ln)
	return nil
}

func (s *server) https(ctx context.Context, addr string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().AddDate(1, 0, 0), DNSNames: []string{s.self.Pod}}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return err
	}
	ln, err := tls.Listen("tcp", addr, &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: []string{"h2", "http/1.1"},
	})
	if err != nil {
		return err
	}
	s.serveHTTP(ctx, ln)
	return nil
}

func (s *server) serveHTTP(ctx context.Context, ln net.Listener) {
	h := &http.Server{Handler: http.HandlerFunc(s.answer), Protocols: new(http.Protocols)}
	h.Protocols.SetHTTP1(true)
	h.Protocols.SetHTTP2(true)
	h.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = h.Serve(ln) }() // it ends by Shutdown below
	s.atEnd(ctx, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_ = h.Shutdown(ctx)
	})
}

// answer understands in the query: status=503, delay=200ms, size=1024 (a body of that many bytes instead of JSON),
// chunks=3 (the body in so many parts, 100 ms apart).
func (s *server) answer(w http.ResponseWriter, r *http.Request) {
	if strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		upgrade(w, r)
		return
	}
	if r.URL.Path == "/calls" && r.Method == http.MethodPost {
		serveCalls(w, r)
		return
	}
	q := r.URL.Query()
	if d, err := time.ParseDuration(q.Get("delay")); err == nil {
		select {
		case <-time.After(d):
		case <-r.Context().Done():
		}
	}
	a := s.self
	a.Remote, a.Proto, a.Method, a.Host, a.URI, a.Headers = r.RemoteAddr, r.Proto, r.Method, r.Host, r.RequestURI, r.Header
	if addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		a.Listen = addr.String()
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	a.Body = string(body)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Pod", a.Pod)
	if s.bye.Load() {
		w.Header().Set("Connection", "close")
	}
	status, err := strconv.Atoi(q.Get("status"))
	if err != nil {
		status = s.status
	}
	w.WriteHeader(status)
	if size, err := strconv.Atoi(q.Get("size")); err == nil {
		_, _ = io.CopyN(w, zeros{}, int64(size)) // the client is gone if it fails
		return
	}
	if n, err := strconv.Atoi(q.Get("chunks")); err == nil {
		drip(w, n)
	}
	_ = json.NewEncoder(w).Encode(a) // as above
}

// drip sends spaces, which JSON ignores, one after the other.
func drip(w http.ResponseWriter, n int) {
	for range n {
		_, _ = io.WriteString(w, " ") // the client is gone if it fails
		_ = http.NewResponseController(w).Flush()
		time.Sleep(100 * time.Millisecond)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// upgrade answers as a WebSocket server and then sends every byte back as it came: frames or not.
func upgrade(w http.ResponseWriter, r *http.Request) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	defer conn.Close()
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		acceptKey(r.Header.Get("Sec-WebSocket-Key")))
	if rw.Flush() == nil {
		_, _ = io.Copy(conn, rw) // until either side closes
	}
}

// acceptKey is RFC 6455, 4.2.2.
func acceptKey(key string) string {
	h := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(h[:])
}
