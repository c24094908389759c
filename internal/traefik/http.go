package traefik

import (
	"fmt"
	"strconv"
	"time"

	ptypes "github.com/traefik/paerser/types"
	"github.com/traefik/traefik/v2/pkg/config/dynamic"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/smi"
	"github.com/tulle-mesh/tulle/internal/topology"
)

func newHTTP() *dynamic.HTTPConfiguration {
	return &dynamic.HTTPConfiguration{
		Routers: map[string]*dynamic.Router{}, Services: map[string]*dynamic.Service{},
		Middlewares: map[string]*dynamic.Middleware{}, ServersTransports: map[string]*dynamic.ServersTransport{},
	}
}

// httpPort renders the routes of an HTTP port: a router for each match, so that a rule needs no "or". The first route
// that fits is taken, so it has the highest priority.
func (r *renderer) httpPort(u *unit, p *topology.Port, doors []door) {
	base := u.portName(p)
	for i, route := range p.Routes {
		name := base + "-" + strconv.Itoa(i)
		priority := len(p.Routes) - i
		target := httpTarget{unit: u, route: route, shares: r.shares(u, p, route), port: p, name: name}
		target.access = r.access(u, target.shares)
		target.service = r.httpRouteService(target)
		matches := route.Matches
		if len(matches) == 0 {
			matches = []smi.HTTPMatch{{}}
		}
		for j, m := range matches {
			matchers, never, err := r.matchersOf(m)
			if err != nil {
				r.cannotMatch(u, route, m, err)
			}
			if never || err != nil {
				continue
			}
			for _, d := range doors {
				r.httpRouters(target, door{d.entryPoint, d.hosts, routerSuffix(route, j) + d.suffix}, matchers, priority)
			}
		}
	}
}

// routerSuffix counts the matches of a route that has any.
func routerSuffix(route topology.Route, match int) string {
	if len(route.Matches) == 0 {
		return ""
	}
	return "-" + strconv.Itoa(match)
}

// httpTarget is where a route of a port leads to.
type httpTarget struct {
	unit    *unit
	route   topology.Route
	shares  []share
	port    *topology.Port
	name    string
	service string
	access  access
}

// httpRouters adds the router of a match at a door. A protected destination has one more for each that is let in, and is
// closed to the others. The priorities of a route's routers are above all those of the routes after it.
func (r *renderer) httpRouters(t httpTarget, d door, matchers []string, priority int) {
	if d.hosts != "" {
		matchers = append([]string{d.hosts}, matchers...)
	}
	name := t.name + d.suffix
	router := &dynamic.Router{EntryPoints: []string{d.entryPoint}, Rule: rule(matchers), Service: t.service, Priority: 2 * priority}
	if !t.access.protected {
		router.Middlewares = r.middlewares(t)
		r.http.Routers[name] = router
		return
	}
	router.Middlewares, router.Service = r.closedMiddlewares(), r.nowhere()
	r.http.Routers[name] = router
	for i, allowed := range t.allowed() {
		r.http.Routers[fmt.Sprintf("%s-allow-%d", name, i)] = &dynamic.Router{
			EntryPoints: router.EntryPoints, Middlewares: r.middlewares(t), Service: t.service,
			Rule: rule(append(append([]string(nil), matchers...), allowed...)), Priority: 2*priority + 1,
		}
	}
}

// cannotMatch reports a match that Traefik can't judge. Nothing fits it.
func (r *renderer) cannotMatch(u *unit, route topology.Route, m smi.HTTPMatch, err error) {
	ref := u.ref()
	if route.Split != nil {
		ref = problem.Ref{Kind: "TrafficSplit", Namespace: route.Split.Namespace, Name: route.Split.Name}
	}
	r.report(ref, problem.MatchNotRendered, "Traefik cannot judge the match %s, so no request fits it: %v", problem.Quote(m.Name), err)
}

// httpRouteService is the service that a route leads to: a load balancer, or several by weight.
func (r *renderer) httpRouteService(t httpTarget) string {
	switch len(t.shares) {
	case 0:
		return r.nowhere()
	case 1:
		return r.loadBalancer(t, t.shares[0])
	}
	weighted := &dynamic.WeightedRoundRobin{}
	for _, s := range t.shares {
		weight := int(s.weight)
		weighted.Services = append(weighted.Services, dynamic.WRRService{Name: r.loadBalancer(t, s), Weight: &weight})
	}
	r.http.Services[t.name] = &dynamic.Service{Weighted: weighted}
	return t.name
}

// nowhere is a service without servers: it answers 503.
func (r *renderer) nowhere() string {
	const name = "nowhere"
	if r.http.Services[name] == nil {
		r.http.Services[name] = &dynamic.Service{LoadBalancer: &dynamic.ServersLoadBalancer{PassHostHeader: yes()}}
	}
	return name
}

func yes() *bool {
	v := true
	return &v
}

// loadBalancer adds the load balancer of a backend's port, once for each time limit and scheme.
func (r *renderer) loadBalancer(t httpTarget, s share) string {
	if s.unit == nil || s.port == nil {
		return r.nowhere()
	}
	name := s.unit.portName(s.port)
	if t.port.Timeout > 0 {
		name += "-" + t.port.Timeout.String()
	}
	if r.http.Services[name] != nil {
		return name
	}
	lb := &dynamic.ServersLoadBalancer{PassHostHeader: yes(), ServersTransport: r.transport(s.scheme, t.port.Timeout)}
	endpoints := s.endpoints()
	lb.Servers = make([]dynamic.Server, 0, len(endpoints))
	for _, e := range endpoints {
		lb.Servers = append(lb.Servers, dynamic.Server{URL: string(s.scheme) + "://" + addressOf(e)})
	}
	r.http.Services[name] = &dynamic.Service{LoadBalancer: lb}
	return name
}

// transport adds the settings of connections to servers, if the default ones don't do. Certificates of servers are not
// verified, as the mesh's own proxy doesn't: it has nothing to verify them with.
func (r *renderer) transport(scheme topology.Scheme, timeout time.Duration) string {
	if scheme != topology.SchemeHTTPS && timeout <= 0 {
		return ""
	}
	name := "transport"
	st := &dynamic.ServersTransport{}
	if scheme == topology.SchemeHTTPS {
		name += "-https"
		st.InsecureSkipVerify = true
	}
	if timeout > 0 {
		name += "-" + timeout.String()
		// These are Traefik's defaults; zeroes would mean that there is no limit.
		st.ForwardingTimeouts = &dynamic.ForwardingTimeouts{
			DialTimeout: ptypes.Duration(30 * time.Second), IdleConnTimeout: ptypes.Duration(90 * time.Second), PingTimeout: ptypes.Duration(15 * time.Second),
			ResponseHeaderTimeout: ptypes.Duration(timeout),
		}
	}
	r.http.ServersTransports[name] = st
	return name
}
