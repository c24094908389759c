//go:build linux

package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"
)

// flatBackends are the endpoints: one program at three addresses.
type flatBackends struct {
	server   http.Server
	http     []string
	tcp, udp string
	sockets  []io.Closer
}

func startFlatBackends(t *testing.T) *flatBackends {
	t.Helper()
	b := &flatBackends{}
	b.server.Protocols = new(http.Protocols)
	b.server.Protocols.SetHTTP1(true)
	b.server.Protocols.SetUnencryptedHTTP2(true)
	b.server.Handler = b.handler()
	for range 3 {
		l := b.listen(t)
		b.http = append(b.http, l.Addr().String())
		go func() { _ = b.server.Serve(l) }() // until close
	}
	l := b.listen(t)
	b.tcp = l.Addr().String()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go echo(c, c)
		}
	}()
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.udp, b.sockets = p.LocalAddr().String(), append(b.sockets, p)
	go func() {
		for buffer := make([]byte, 2048); ; {
			n, from, err := p.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = p.WriteTo(buffer[:n], from) // who is gone needs nothing
		}
	}()
	t.Cleanup(b.close)
	return b
}

func (b *flatBackends) listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.sockets = append(b.sockets, l)
	return l
}

// close ends all connections, too.
func (b *flatBackends) close() {
	b.server.Close()
	for _, s := range b.sockets {
		s.Close()
	}
}

func echo(c net.Conn, r io.Reader) {
	defer c.Close()
	_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{r}) // until the client ends it, without pipes
}

// nothing is what bodies are made of.
var nothing [64 << 10]byte

func (b *flatBackends) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(nothing[:1<<10]) })
	mux.HandleFunc("/big/{bytes}", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.ParseInt(r.PathValue("bytes"), 10, 64)
		if r.URL.RawQuery == "" { // else it is chunked
			w.Header().Set("Content-Length", r.PathValue("bytes"))
		}
		for part := int64(len(nothing)); n > 0; n -= part {
			if _, err := w.Write(nothing[:min(n, part)]); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/sink", func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body) // the client says how much it should have been
		fmt.Fprint(w, n)
	})
	// A client that closes its end may still want its answer, so that its request ends with the endpoint's patience, or
	// when its kernel has forgotten it.
	mux.HandleFunc("/hang", func(_ http.ResponseWriter, r *http.Request) { pause(r.Context(), 3*time.Second) })
	mux.HandleFunc("/break", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(nothing[:])
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("/upgrade", func(w http.ResponseWriter, _ *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprint(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		echo(c, bufio.NewReader(rw))
	})
	return mux
}
