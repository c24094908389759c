package shadow

import (
	"slices"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// serves says by which address a unit's names go, and whether its dedicated listeners are open.
func (m *model) serves(u Unit) (way string, open bool) {
	a := m.observe().Units[u]
	switch {
	case len(a.Addresses) == 0:
		way = "none"
	case a.Shared:
		way = "shared"
	default:
		way = "dedicated"
	}
	return way, len(a.TargetPorts) > 0
}

func (m *model) want(when string, u Unit, way string, open bool) {
	m.t.Helper()
	if w, o := m.serves(u); w != way || o != open {
		m.t.Errorf("%s: %v is reached by %s (own listeners: %v), want %s (%v)", when, u, w, o, way, open)
	}
}

func (m *model) sharedPorts() (out []int32) {
	for _, p := range m.observe().Shared {
		out = append(out, p.Port)
	}
	return out
}

func TestSharedMode(t *testing.T) {
	m := small(t)
	m.cfg.SharedHTTP = true
	own := svc("shop", "own", "80")
	own.Dedicated = true
	m.topo.Services = append(m.topo.Services, own, svc("shop", "mixed", "9000", "tcp/9001"), svc("shop", "api", "80"))
	m.settle()
	m.want("at once", unit("shop", "web"), "shared", false)
	m.want("at once", unit("shop", "api"), "shared", false)
	m.want("at once", unit("shop", "db"), "dedicated", true)
	m.want("at once", unit("shop", "mixed"), "dedicated", true)
	m.pass(time.Hour)
	m.want("later", unit("shop", "own"), "dedicated", true)
	if got := m.sharedPorts(); !slices.Equal(got, []int32{80, 8080}) {
		t.Errorf("shared ports: %v", got)
	}
	if n := len(m.services); n != 5 { // shared, db, dns, own, mixed
		t.Errorf("%d services", n)
	}
}

func TestSwitchToSharedAndBackServesBothForAWhile(t *testing.T) {
	m := small(t)
	web := unit("shop", "web")
	m.settle()
	m.want("before", web, "dedicated", true)
	dedicated := m.observe().Units[web]

	m.cfg.SharedHTTP = true
	m.settle()
	m.want("while the shared address is made known to the nodes", web, "dedicated", true)
	if len(m.sharedPorts()) != 2 {
		t.Errorf("shared ports: %v", m.sharedPorts())
	}
	m.pass(9 * time.Second)
	m.want("before it has settled", web, "dedicated", true)
	m.pass(2 * time.Second)
	m.want("once it has settled", web, "shared", true)
	m.pass(58 * time.Second)
	m.want("while clients may know the old one", web, "shared", true)
	if got := m.services[ServiceName(web)].Spec.ClusterIP; got != dedicated.Addresses[0].String() {
		t.Errorf("the old address became %s", got)
	}
	m.pass(4 * time.Second)
	m.want("after the overlap", web, "shared", false)
	if m.services[ServiceName(web)] != nil {
		t.Error("the dedicated Service is still there")
	}

	m.cfg.SharedHTTP = false
	m.settle()
	m.want("on the way back", web, "shared", true)
	m.pass(9 * time.Second)
	m.want("on the way back", web, "shared", true)
	m.pass(2 * time.Second)
	m.want("back", web, "dedicated", true)
	if len(m.sharedPorts()) != 2 {
		t.Errorf("clients may still know the shared address: %v", m.sharedPorts())
	}
	m.pass(2 * time.Minute)
	if m.services[SharedName] != nil || len(m.slices) != 3 {
		t.Errorf("the shared Service is still there, or its slices: %d", len(m.slices))
	}
	m.want("in the end", web, "dedicated", true)
}

func TestSwitchBackBeforeItIsDone(t *testing.T) {
	for _, after := range []time.Duration{0, 5 * time.Second, 15 * time.Second, time.Minute} {
		m := small(t)
		web := unit("shop", "web")
		m.settle()
		before := m.observe().Units[web]
		m.cfg.SharedHTTP = true
		m.pass(after)
		m.cfg.SharedHTTP = false
		m.settle()
		m.want("back after "+after.String(), web, "dedicated", true)
		m.pass(time.Hour)
		if got := m.observe().Units[web]; !slices.Equal(got.Addresses, before.Addresses) || m.services[SharedName] != nil {
			t.Errorf("after %v: %+v, was %+v", after, got, before)
		}
	}
}

func TestAnnotationMovesOneServiceAlone(t *testing.T) {
	m := small(t)
	m.topo.Services = append(m.topo.Services, svc("shop", "api", "80"))
	web, api := unit("shop", "web"), unit("shop", "api")
	m.settle()
	m.topo.Services[2].Shared = true
	m.pass(time.Hour)
	m.want("annotated", web, "shared", false)
	m.want("not annotated", api, "dedicated", true)

	m.topo.Services = append(m.topo.Services, svc("shop", "later", "80"))
	m.settle()
	m.want("new", unit("shop", "later"), "dedicated", true)

	m.topo.Services[2].Shared = false
	m.settle()
	m.want("annotation gone", web, "shared", true)
	m.pass(11 * time.Second)
	m.want("annotation gone", web, "dedicated", true)
	m.pass(time.Hour)
	if m.services[SharedName] != nil {
		t.Error("the shared Service is still there")
	}
}

func TestDedicatedByAnnotationInSharedMode(t *testing.T) {
	m := small(t)
	m.cfg.SharedHTTP = true
	web := unit("shop", "web")
	m.settle()
	m.topo.Services[2].Dedicated = true
	m.settle()
	m.want("at once", web, "shared", true)
	m.pass(11 * time.Second)
	m.want("settled", web, "dedicated", true)
	m.topo.Services[2].Dedicated = false
	m.pass(11 * time.Second)
	m.want("back", web, "shared", true)
}

func TestOneSharedPortRetires(t *testing.T) {
	m := small(t)
	m.cfg.SharedHTTP = true
	m.settle()
	m.topo.Services[2].Ports = m.topo.Services[2].Ports[:1]
	m.settle()
	if got := m.sharedPorts(); !slices.Equal(got, []int32{80, 8080}) {
		t.Errorf("ports %v", got)
	}
	m.pass(30 * time.Second)
	before := m.observe().Shared
	m.topo.Services = append(m.topo.Services, svc("shop", "x", "8080"))
	m.pass(time.Hour)
	if got := m.observe().Shared; !slices.Equal(got, before) {
		t.Errorf("a port that is used again changed: %v, was %v", got, before)
	}
	m.topo.Services = m.topo.Services[:3]
	m.pass(2 * time.Minute)
	if got := m.sharedPorts(); !slices.Equal(got, []int32{80}) {
		t.Errorf("ports %v", got)
	}
}

func TestSharedAddressThatIsLostLeavesTheDedicatedOne(t *testing.T) {
	m := small(t)
	web := unit("shop", "web")
	m.settle()
	m.cfg.SharedHTTP = true
	m.pass(15 * time.Second)
	m.want("moved", web, "shared", true)
	delete(m.services, SharedName)
	m.want("shared address lost", web, "dedicated", true)
	m.cfg.Now = m.cfg.Now.Add(time.Hour)
	m.step()
	m.want("being healed", web, "shared", true)
	if m.services[ServiceName(web)] == nil {
		t.Error("the dedicated one was deleted before the shared one was back")
	}
}

func TestNotShareableIsAProblem(t *testing.T) {
	m := small(t)
	m.topo.Services[0].Shared = true
	problems := m.settle()
	if len(problems) != 1 || problems[0].Reason != problem.AddressNotShareable || problems[0].Object.Name != "db" {
		t.Errorf("problems: %v", problems)
	}
	m.want("in spite of it", unit("shop", "db"), "dedicated", true)
}

func TestMembersThatAreTooManyToListAreAll(t *testing.T) {
	m := small(t)
	long := make([]byte, 250)
	for i := range long {
		long[i] = 'x'
	}
	for i := range 1000 {
		s := svc(string(long)+string(rune('a'+i%26)), string(rune('a'+i/26)), "80")
		s.Shared = true
		m.topo.Services = append(m.topo.Services, s)
	}
	slices.SortFunc(m.topo.Services, func(a, b topology.Service) int { return Unit{Name: a.Name}.Compare(Unit{Name: b.Name}) })
	m.settle()
	if got := m.services[SharedName].Annotations["tulle.dev/members"]; got != "*" {
		t.Errorf("members are listed in %d bytes", len(got))
	}
}
