package http1

import (
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/refusal"
)

const (
	// maxShedding is how many connections are told at a time why they are not served; further ones are reset.
	maxShedding = 64
	shedTimeout = time.Second
	shedBytes   = 64 << 10
)

// Shed ends a connection that there is no room for. Its client is told why, whatever it is about to say.
func (s *Server) Shed(tcp *net.TCPConn) {
	if s.shedding.Add(1) > maxShedding {
		s.shedding.Add(-1)
		_ = tcp.SetLinger(0) // both fail on a connection that is closed
		_ = tcp.Close()
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		s.shedding.Add(-1)
		tcp.Close()
		return
	}
	s.serving.Go(func() {
		defer s.shedding.Add(-1)
		defer tcp.Close()
		sayGoodbye(tcp)
	})
}

// sayGoodbye reads what the client sends meanwhile: closing at once would reset the connection, and the answer with it.
func sayGoodbye(tcp *net.TCPConn) {
	const r = refusal.OverShare
	text := fmt.Sprintf("tulle: %s (%s)\n", r.Answer().Text, r)
	answer := fmt.Sprintf("HTTP/1.1 %d %s\r\n%s: %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		r.Answer().Status, http.StatusText(r.Answer().Status), refusal.Header, r, len(text), text)
	if tcp.SetDeadline(time.Now().Add(shedTimeout)) != nil {
		return
	}
	if _, err := tcp.Write([]byte(answer)); err != nil || tcp.CloseWrite() != nil {
		return
	}
	b := takeBuffer(smallBuffer)
	defer freeBuffer(b)
	for read := 0; read < shedBytes; {
		n, err := tcp.Read(b)
		if err != nil {
			return
		}
		read += n
	}
}
