package shadow

import (
	"fmt"
	"slices"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
)

// many has n services and a proxy on each of the nodes.
func many(t *testing.T, services, nodes int) *model {
	m := newModel(t)
	for i := range services {
		m.topo.Services = append(m.topo.Services, svc("shop", fmt.Sprintf("s%04d", i), "80"))
	}
	for i := range nodes {
		m.proxies = append(m.proxies, proxy(fmt.Sprintf("p%04d", i), fmt.Sprintf("n%04d", i), fmt.Sprintf("10.%d.%d.1", i/250, i%250)))
	}
	return m
}

// TestReplacingAProxyIsOneWritePerService follows a rolling update with a surge: the new proxy of a node is ready, then
// the old one is told to end, then it is gone.
func TestReplacingAProxyIsOneWritePerService(t *testing.T) {
	m := many(t, 20, 3)
	m.settle()
	m.writes = 0
	m.proxies = append(m.proxies, proxy("new", "n0001", "10.9.9.9"))
	m.settle()
	if m.writes != 0 {
		t.Errorf("%d writes for a proxy on a node that has one", m.writes)
	}
	m.proxies[1].Ready = false
	m.settle()
	m.proxies = slices.Delete(m.proxies, 1, 2)
	m.settle()
	if m.writes != 20 {
		t.Errorf("%d writes for 20 services", m.writes)
	}
	if got := m.leadsTo(ServiceName(unit("shop", "s0000"))); !slices.Equal(got, []string{"new", "p0000", "p0002"}) {
		t.Errorf("leads to %v", got)
	}
}

func TestProxiesThatAreNotReadyLeave(t *testing.T) {
	name := ServiceName(unit("shop", "s0000"))
	tests := []struct {
		name   string
		change func(m *model)
		want   []string
	}{
		{"one not ready", func(m *model) { m.proxies[0].Ready = false }, []string{"p0001"}},
		{"one gone", func(m *model) { m.proxies = m.proxies[1:] }, []string{"p0001"}},
		{"none ready: they stay", func(m *model) { m.proxies[0].Ready, m.proxies[1].Ready = false, false }, []string{"p0000", "p0001"}},
		{"one gone, the other not ready", func(m *model) { m.proxies = m.proxies[1:]; m.proxies[0].Ready = false }, []string{"p0001"}},
		{"none ready, a new one", func(m *model) {
			m.proxies[0].Ready, m.proxies[1].Ready = false, false
			m.proxies = append(m.proxies, proxy("a", "n0000", "10.9.9.9"))
			m.proxies[2].Ready = false
		}, []string{"p0000", "p0001"}},
		{"none ready but a new one", func(m *model) {
			m.proxies[0].Ready, m.proxies[1].Ready = false, false
			m.proxies = append(m.proxies, proxy("a", "n0000", "10.9.9.9"))
		}, []string{"a"}},
		{"all gone", func(m *model) { m.proxies = nil }, nil},
		{"all replaced", func(m *model) { m.proxies = []Proxy{proxy("b", "n0000", "10.9.9.8")} }, []string{"b"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := many(t, 1, 2)
			m.settle()
			tt.change(m)
			m.settle()
			if got := m.leadsTo(name); !slices.Equal(got, tt.want) {
				t.Errorf("leads to %v, want %v", got, tt.want)
			}
		})
	}
}

func TestInSlicesUntilTheLastSliceIsWritten(t *testing.T) {
	m := many(t, 2, 2)
	m.settle()
	m.proxies[0].Ready = false
	c, _ := m.plan()
	if len(c.UpdateSlices) != 2 {
		t.Fatalf("%d slices to write", len(c.UpdateSlices))
	}
	m.slice(c.UpdateSlices[0])
	if in := InSlices(m.state(), m.proxies); !in["p0000"] || !in["p0001"] {
		t.Errorf("in slices: %v", in)
	}
	m.slice(c.UpdateSlices[1])
	if in := InSlices(m.state(), m.proxies); in["p0000"] || !in["p0001"] {
		t.Errorf("in slices: %v", in)
	}
}

func TestSlicesOfAHundred(t *testing.T) {
	m := many(t, 3, 250)
	m.settle()
	if m.writes != 3+3*3 {
		t.Errorf("%d writes", m.writes)
	}
	m.writes = 0
	m.proxies = append(m.proxies, proxy("new", "n0111", "10.99.0.1"))
	m.proxies[111].Ready = false
	m.settle()
	if m.writes != 3 {
		t.Errorf("%d writes for a proxy that was replaced", m.writes)
	}
}

func TestMoreThanAThousandNodes(t *testing.T) {
	m := many(t, 2, 2300)
	m.cfg.SliceSize = 5000
	m.settle()
	name := ServiceName(unit("shop", "s0001"))
	sizes := func() (out []int) {
		for i := 1; m.slices[fmt.Sprintf("%s-v4-%d", name, i)] != nil; i++ {
			out = append(out, len(m.slices[fmt.Sprintf("%s-v4-%d", name, i)].Endpoints))
		}
		return out
	}
	if got := sizes(); !slices.Equal(got, []int{1000, 1000, 300}) {
		t.Fatalf("slices of %v", got)
	}
	// A node goes, another comes: one slice of each service is written for each.
	m.writes = 0
	m.proxies[5].Ready = false
	m.settle()
	m.proxies = append(m.proxies, proxy("new", "new", "10.99.0.1"))
	m.settle()
	if m.writes != 4 || !slices.Equal(sizes(), []int{1000, 1000, 300}) {
		t.Errorf("%d writes, slices of %v", m.writes, sizes())
	}
	m.proxies = m.proxies[:100]
	m.settle()
	if got := sizes(); !slices.Equal(got, []int{99}) {
		t.Errorf("slices of %v", got)
	}
	m.cfg.SliceSize = 10
	m.settle()
	if got := sizes(); len(got) != 10 || slices.Max(got) != 10 {
		t.Errorf("slices of %v", got)
	}
}

func TestNodeInTwoSlicesStaysInOne(t *testing.T) {
	m := many(t, 1, 2)
	m.settle()
	name := ServiceName(unit("shop", "s0000"))
	more := m.slices[name+"-v4-1"].DeepCopy()
	more.Name = "z"
	m.slices["z"] = more
	m.settle()
	if got := m.leadsTo(name); !slices.Equal(got, []string{"p0000", "p0001"}) {
		t.Errorf("leads to %v", got)
	}
}

func TestForeignAddressTypeIsRemoved(t *testing.T) {
	m := many(t, 1, 2)
	m.settle()
	name := ServiceName(unit("shop", "s0000"))
	more := m.slices[name+"-v4-1"].DeepCopy()
	more.Name, more.AddressType = "z", discoveryv1.AddressTypeFQDN
	m.slices["z"] = more
	m.settle()
	if m.slices["z"] != nil {
		t.Error("it is still there")
	}
}

func BenchmarkPlan(b *testing.B) {
	m := &model{cfg: Config{Namespace: "tulle-system"}}
	for i := range 1000 {
		m.topo.Services = append(m.topo.Services, svc("shop", fmt.Sprintf("s%04d", i), "80"))
	}
	for i := range 200 {
		m.proxies = append(m.proxies, proxy(fmt.Sprintf("p%04d", i), fmt.Sprintf("n%04d", i), fmt.Sprintf("10.%d.%d.1", i/250, i%250)))
	}
	c, _ := m.plan()
	state := State{Services: c.CreateServices, Slices: c.CreateSlices}
	b.Run("shared lists", func(b *testing.B) { benchPlan(b, m, state) })
	apart := State{Services: state.Services}
	for _, sl := range state.Slices {
		apart.Slices = append(apart.Slices, sl.DeepCopy())
	}
	b.Run("lists apart", func(b *testing.B) { benchPlan(b, m, apart) })
}

func benchPlan(b *testing.B, m *model, s State) {
	b.ReportAllocs()
	for b.Loop() {
		if c, _ := Plan(m.cfg, m.topo, s, m.proxies, nil); len(c.UpdateSlices) > 0 {
			b.Fatal("slices are written again")
		}
	}
}
