//go:build linux

package proxy_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/proxy"
)

// many is services that nobody calls, with four ports each.
func (m *mesh) many(n int) (u configv1.Update) {
	for i := range n {
		name := fmt.Sprintf("idle-%d", i)
		s, e := service(name, tcpPort, 80, uint32(30000+4*i)), endpoints(name, tcpPort, 80, "127.0.0.1:9")
		for j := range uint32(3) {
			s.Ports = append(s.Ports, service(name, tcpPort, 81+j, uint32(30001+4*i)+j).Ports[0])
			e.Ports = append(e.Ports, endpoints(name, tcpPort, 81+j, "127.0.0.1:9").Ports[0])
		}
		u.Set = append(u.Set, m.resource("shop/"+name, e), m.resource("shop/"+name, s))
	}
	return u
}

// There may be thousands of listeners: those that nobody calls have no goroutine, and those that were called lose it.
func TestListenersThatNobodyCallsAreSmall(t *testing.T) {
	const services, most = 200, 4 << 10 // bytes for each port; it was 2.6 KiB when this was written, and 5 with a goroutine
	m := start(t, func(c *proxy.Config) { c.ParkAfter = 10 * time.Millisecond })
	m.serve("web", httpPort, says(t, "web"))
	goroutines := runtime.NumGoroutine()
	heap, stacks := memory()
	if refused := m.Apply(m.many(services)); len(refused) > 0 {
		t.Fatal(refused)
	}
	if n := runtime.NumGoroutine() - goroutines; n > 10 {
		t.Errorf("%d listeners have %d goroutines", 4*services, n)
	}
	heap2, stacks2 := memory()
	each := int(heap2+stacks2-heap-stacks) / (4 * services)
	t.Logf("%d bytes for each port", each)
	if each > most {
		t.Error("more than was to be")
	}
	for i := range 50 {
		c, err := net.Dial("tcp", m.sockets.address(tcpPort, uint32(30000+i)))
		if err == nil { // it may be reset before
			c.Close()
		}
	}
	eventually(t, func() error {
		if n := runtime.NumGoroutine() - goroutines; n > 10 {
			return fmt.Errorf("%d goroutines are left", n)
		}
		return nil
	})
}

// However calls come, a listener that is parked or about to be takes them.
func TestParkedListenersAreCalled(t *testing.T) {
	t.Parallel()
	m := start(t, func(c *proxy.Config) { c.ParkAfter = time.Millisecond })
	up := says(t, "up")
	var fronts []string
	for i := range uint32(10) {
		name := fmt.Sprintf("web-%d", i)
		m.set("shop/"+name, endpoints(name, httpPort, 80, up))
		m.set("shop/"+name, service(name, httpPort, 80, 30000+i))
		fronts = append(fronts, m.sockets.address(httpPort, 30000+i))
	}
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for range 100 {
				if got := ask(t, &http.Transport{DisableKeepAlives: true}, fronts[rand.IntN(len(fronts))]); got != "up" { //nolint:gosec // any will do
					t.Errorf("answer %q", got)
				}
				if rand.IntN(4) == 0 { //nolint:gosec // as above
					<-time.After(time.Millisecond) // long enough to be parked
				}
			}
		})
	}
	clients.Wait()
}
