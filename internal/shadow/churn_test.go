package shadow

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/topology"
)

// TestChurn changes everything at random and checks, after every plan, what must hold always.
func TestChurn(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			c := churn{model: newModel(t), r: rand.New(rand.NewPCG(seed, 1)), services: map[topology.Name]topology.Service{}}
			for range 120 {
				c.change()
				c.check()
			}
			// It comes to rest, and then every unit has an address.
			c.cfg.SharedHTTP = false
			c.proxies = []Proxy{proxy("last", "n", "10.0.0.1")}
			c.busy = map[PortKey]bool{}
			c.pass(time.Hour)
			c.check()
			for _, s := range c.topo.Services {
				if way, _ := c.serves(Unit{Name: s.Name}); way != "dedicated" && len(s.Ports) > 0 && !s.Shared {
					t.Errorf("in the end %v is reached by %s", s.Name, way)
				}
			}
			if next, _ := c.plan(); !next.Next.IsZero() {
				t.Errorf("something still moves at %v", next.Next)
			}
		})
	}
}

type churn struct {
	*model
	r        *rand.Rand
	services map[topology.Name]topology.Service
	serial   int
}

func (c *churn) change() {
	before := c.observe()
	busy := len(c.busy)
	switch c.r.IntN(12) {
	case 0, 1, 2, 3:
		name := topology.Name{Namespace: []string{"a", "a-b", "b"}[c.r.IntN(3)], Name: []string{"c", "b-c", "d", "e"}[c.r.IntN(4)]}
		c.services[name] = c.random(name)
	case 4:
		for name := range c.services {
			delete(c.services, name)
			break
		}
	case 5, 6:
		c.serial++
		node := c.r.IntN(4)
		c.proxies = append(c.proxies, proxy(fmt.Sprint("p", c.serial), fmt.Sprint("n", node), fmt.Sprintf("10.1.%d.%d", c.serial/250, c.serial%250)))
	case 7:
		if n := len(c.proxies); n > 0 {
			i := c.r.IntN(n)
			c.proxies = slices.Clone(c.proxies)
			c.proxies[i].Ready = !c.proxies[i].Ready
		}
	case 8:
		if n := len(c.proxies); n > 0 {
			i := c.r.IntN(n)
			c.proxies = slices.Delete(slices.Clone(c.proxies), i, i+1)
		}
	case 9:
		c.cfg.SharedHTTP = !c.cfg.SharedHTTP
	case 10:
		for _, a := range before.Units {
			for k, target := range a.TargetPorts {
				c.busy[PortKey{Number: target, UDP: k.UDP}] = true
				break
			}
			break
		}
	case 11:
		c.tamper()
	}
	c.topo.Services = slices.SortedFunc(maps.Values(c.services), func(a, b topology.Service) int { return Unit{Name: a.Name}.Compare(Unit{Name: b.Name}) })
	c.pass(time.Duration(c.r.IntN(40)) * time.Second)
	if len(c.busy) == busy {
		c.stable(before)
	}
}

func (c *churn) random(name topology.Name) topology.Service {
	var ports []string
	for _, p := range []string{"80", "8080", "tcp/5432", "tcp/53", "udp/53", "udp/80"} {
		if c.r.IntN(3) == 0 && (p != "udp/80" || !slices.Contains(ports, "80")) {
			ports = append(ports, p)
		}
	}
	s := svc(name.Namespace, name.Name, ports...)
	s.Shared = c.r.IntN(5) == 0
	s.Dedicated = !s.Shared && c.r.IntN(5) == 0
	return s
}

// tamper is somebody with too many rights.
func (c *churn) tamper() {
	for name := range c.model.services {
		switch c.r.IntN(3) {
		case 0:
			delete(c.model.services, name)
		case 1:
			c.model.services[name].Spec.Selector = map[string]string{"a": "b"}
		case 2:
			delete(c.slices, name+"-v4-1")
		}
		return
	}
}

// stable: a port that still exists keeps its target port.
func (c *churn) stable(before Assigned) {
	c.t.Helper()
	for u, a := range c.observe().Units {
		for k, target := range a.TargetPorts {
			if was, ok := before.Units[u].TargetPorts[k]; ok && was != target {
				c.t.Errorf("%v port %v moved from %d to %d", u, k, was, target)
			}
		}
	}
}

func (c *churn) check() {
	c.t.Helper()
	a := c.observe()
	owner := map[PortKey]string{}
	claim := func(k PortKey, who string) {
		if other, ok := owner[k]; ok || !usable(k.Number, portRanges()) {
			c.t.Fatalf("target port %v of %s, also of %q", k, who, other)
		}
		owner[k] = who
	}
	for _, p := range a.Shared {
		claim(PortKey{Number: p.TargetPort}, "the shared address")
	}
	for u, s := range a.Units {
		for k, target := range s.TargetPorts {
			claim(PortKey{Number: target, UDP: k.UDP}, fmt.Sprint(u, k))
		}
	}
	for _, s := range c.topo.Services {
		way, _ := c.serves(Unit{Name: s.Name})
		if slices.ContainsFunc(c.proxies, func(p Proxy) bool { return p.Ready }) && len(s.Ports) > 0 && way == "none" {
			c.t.Fatalf("%v has no address", s.Name)
		}
	}
	if len(c.model.services) > len(c.topo.Services)+1 {
		c.t.Fatalf("%d shadows for %d services", len(c.model.services), len(c.topo.Services))
	}
}
