package tcp_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/socket/sockettest"
	"github.com/tulle-mesh/tulle/internal/proxy/tcp"
)

// A panic in either direction ends both, and whoever has started them hears of it.
func TestPanicInAPipe(t *testing.T) {
	for _, from := range []string{"client", "upstream"} {
		for _, how := range []string{"start", "run"} {
			client, near := sockettest.Pair(t)
			server, up := sockettest.Pair(t)
			bug := func(float64) { panic("bug") }
			p := tcp.Pipe{Client: near, Upstream: up, Idle: time.Hour, In: bug, Out: bug}
			ended := make(chan string, 1)
			if how == "start" {
				p.Start(func(p *tcp.Panic) { ended <- fmt.Sprint(p.Value, " ", string(p.Stack)) })
			} else {
				go func() {
					defer func() { ended <- fmt.Sprint(recover()) }()
					p.Run()
				}()
			}
			speaker := map[string]*net.TCPConn{"client": client, "upstream": server}[from]
			if _, err := speaker.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			if err := speaker.CloseWrite(); err != nil { // counted at the end
				t.Fatal(err)
			}
			select {
			case got := <-ended:
				if !strings.HasPrefix(got, "bug") || !strings.Contains(got, "TestPanicInAPipe") {
					t.Errorf("%s by %s: %q", from, how, got)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("%s by %s: the pipe goes on", from, how)
			}
			for _, c := range []net.Conn{client, server} {
				if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("%s by %s: a connection is open", from, how)
				}
			}
		}
	}
}
