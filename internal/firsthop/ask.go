package firsthop

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// tries is how often each server is asked over each protocol. Where a Service leads to any of two proxies, 16 calls
	// all end at the same one once in 32,768 times.
	tries = 8
	// askLimit is well below what a resolver would wait.
	askLimit = 2 * time.Second
)

// Answer is what became of one question.
type Answer struct {
	Server  string `json:"server"`           // host:port that was asked
	Network string `json:"network"`          // udp or tcp
	Source  string `json:"source,omitempty"` // address it was asked from
	Pod     string `json:"pod,omitempty"`    // proxy that answered
	Client  string `json:"client,omitempty"` // address that the proxy saw
	Error   string `json:"error,omitempty"`  // instead of an answer
}

// Ask asks the servers, which answer for the mesh zone, several times over UDP and over TCP. Every question has a socket
// of its own, and all are open at the same time: no two are one flow to a connection table.
func Ask(ctx context.Context, zone string, servers ...netip.AddrPort) []Answer {
	answers := make([]Answer, 0, 2*tries*len(servers))
	for _, s := range servers {
		for _, network := range []string{"udp", "tcp"} {
			for range tries {
				answers = append(answers, Answer{Server: s.String(), Network: network})
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	conns := make([]*dns.Conn, len(answers))
	each(answers, func(i int, a *Answer) error {
		c, err := a.dial(ctx)
		conns[i] = c
		return err
	})
	each(answers, func(i int, a *Answer) error {
		if conns[i] == nil {
			return nil
		}
		defer conns[i].Close()
		return a.ask(ctx, conns[i], dns.Fqdn(Label+"."+zone))
	})
	return answers
}

// each calls f for all answers at once and keeps the errors.
func each(answers []Answer, f func(int, *Answer) error) {
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() {
			if err := f(i, &answers[i]); err != nil {
				answers[i].Error = err.Error()
			}
		})
	}
	wg.Wait()
}

func (a *Answer) dial(ctx context.Context) (*dns.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, a.Network, a.Server)
	if err != nil {
		return nil, err
	}
	if source, err := netip.ParseAddrPort(c.LocalAddr().String()); err == nil {
		a.Source = source.Addr().Unmap().WithZone("").String()
	}
	return &dns.Conn{Conn: c}, nil
}

func (a *Answer) ask(ctx context.Context, c *dns.Conn, name string) error {
	client := dns.Client{Net: a.Network, Timeout: askLimit}
	r, _, err := client.ExchangeWithConnContext(ctx, new(dns.Msg).SetQuestion(name, dns.TypeTXT), c)
	if err != nil {
		return err
	}
	var ok bool
	if a.Pod, a.Client, ok = read(r); !ok {
		return fmt.Errorf("%s instead of an answer of the mesh DNS", dns.RcodeToString[r.Rcode])
	}
	return nil
}
