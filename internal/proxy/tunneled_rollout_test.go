package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The proxy of the other node is replaced by a new one, twice, as by a roll-out that starts the new one first. No call fails,
// whatever it is: requests with bodies, that nobody may send twice, and new connections.
func TestOtherNodesProxyIsReplaced(t *testing.T) {
	c := newCluster(t, clusterOptions{drainIdle: 2 * time.Second})
	c.holds(c.a)
	server := webServer(t, webAt, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	front := c.expose("web", httpPort, allow("shop/client", enforce, tcpRule), server)
	dbServer := listenAt(t, webAt, echo)
	db := c.expose("db", tcpPort, allow("shop/client", enforce, tcpRule), dbServer)
	var (
		callers sync.WaitGroup
		stop    = make(chan struct{})
		calls   [6]atomic.Int64
	)
	for i := range calls {
		one := func() error { return echoTCP(db) }
		if i < 4 {
			client := httpFrom(t, clientAt, i%2 == 1)
			one = func() error { return post(client, "http://"+front, fmt.Sprint("body ", calls[i].Load())) }
		}
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := one(); err != nil {
					t.Errorf("caller %d, call %d: %v", i, calls[i].Load(), err)
					return
				}
				calls[i].Add(1)
			}
		})
	}
	more := func() {
		t.Helper()
		for i := range calls {
			enough := calls[i].Load() + 5
			eventually(t, func() error {
				if n := calls[i].Load(); n < enough && !t.Failed() {
					return fmt.Errorf("caller %d has made %d calls of %d", i, n, enough)
				}
				return nil
			})
		}
	}
	for n, at := range []string{"127.0.11.6", "127.0.11.7"} {
		more()
		old, next := c.b, c.node("node-b", at, c.b.me.GetCallers()...)
		next.set("shop/web", allow("shop/client", enforce, tcpRule))
		next.set("shop/web", farEndpoints("web", httpPort, true, server))
		next.set("shop/db", farEndpoints("db", tcpPort, true, dbServer))
		c.mu.Lock()
		c.b = next
		c.mu.Unlock()
		c.ready("node-b", next.listen)
		more() // what is kept leads to the old one still, what is new to the new one
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		var drained sync.WaitGroup
		drained.Go(func() {
			if err := old.server.Drain(ctx); err != nil {
				t.Errorf("replacement %d: %v", n, err)
			}
		})
		if err := old.Drain(ctx); err != nil {
			t.Errorf("replacement %d: %v", n, err)
		}
		drained.Wait()
		cancel()
	}
	more()
	close(stop)
	callers.Wait()
	if plain := c.a.metric("tulle_proxy_plain_total"); plain != 0 {
		t.Errorf("%v calls in the clear", plain)
	}
}

func post(c *http.Client, url, body string) error {
	resp, err := c.Post(url, "text/plain", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || string(got) != body {
		return fmt.Errorf("%d %v %q", resp.StatusCode, resp.Header["Tulle-Reason"], got)
	}
	return nil
}

func echoTCP(to string) error {
	conn, err := from(clientAt).Dial("tcp", to)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "x"); err != nil {
		return err
	}
	_, err = io.ReadFull(conn, make([]byte, 1))
	return err
}
