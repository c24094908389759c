// Package meter counts and logs what the proxy carries: Prometheus metrics with a bounded number of series
// (docs/metrics.md lists them) and a JSON access log. All of it is safe for concurrent use.
package meter

import (
	"cmp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/internal/proxy/refusal"
)

// Config says where metrics and the access log go.
type Config struct {
	Registerer prometheus.Registerer // nil = counted but not shown
	MaxSeries  int                   // label sets per metric, after which "overflow" takes the rest; default 10,000
	Log        *AccessLog            // nil = none
}

// Meter counts.
type Meter struct {
	registerer prometheus.Registerer
	vectors    vectors
	log        *AccessLog
	requests   *family[requestLabels, *requestSeries]
	conns      *family[connLabels, *Connections]
	flows      *family[connLabels, *Flows]
	refusals   *family[refusalLabels, prometheus.Counter]
	audits     *family[Audit, prometheus.Counter]
	circuits   *family[serviceLabels, prometheus.Counter]

	generation atomic.Uint64 // changes when series end or may be named anew

	mu       sync.RWMutex
	services map[string]bool // that exist, "namespace/name"; guarded by mu
}

const (
	unknown  = "unknown"
	overflow = "overflow"
)

// New returns a Meter.
func New(c Config) *Meter {
	m := &Meter{registerer: c.Registerer, vectors: newVectors(c.Registerer), log: c.Log, services: map[string]bool{}}
	size := cmp.Or(c.MaxSeries, 10_000)
	spilt := m.vectors.overflow.Inc
	m.requests = newFamily(size, spilt, m.vectors.request)
	m.conns = newFamily(size, spilt, m.vectors.connection)
	m.flows = newFamily(size, spilt, m.vectors.flow)
	m.refusals = newFamily(size, spilt, m.vectors.refusal)
	m.audits = newFamily(size, spilt, m.vectors.audit)
	m.circuits = newFamily(size, spilt, m.vectors.circuit)
	if c.Log != nil {
		m.vectors.register(c.Registerer, c.Log.droppedTotal())
	}
	return m
}

// Peers says who calls what. Empty strings mean unknown, or none.
type Peers struct {
	SourceNamespace, SourceWorkload string
	Namespace, Service              string // the service that was called
	Port                            uint32
	Backend                         string // the service whose endpoint it went to, "namespace/name"
}

// Exchange is one HTTP request and how it ended.
type Exchange struct {
	Peers
	Status   int // that the client got; 0 if it went away before
	Duration time.Duration
	In, Out  int64 // bytes of the bodies
}

// Cache remembers where the last request of a connection was counted: the next one is usually alike. The zero value is
// empty. It belongs to one goroutine.
type Cache struct {
	labels     requestLabels
	series     *requestSeries
	generation uint64
}

// Request counts an HTTP request that has ended. The cache may be nil.
func (m *Meter) Request(c *Cache, x Exchange) {
	labels := requestLabels{x.Peers, class(x.Status)}
	var s *requestSeries
	if c != nil && c.series != nil && c.labels == labels && c.generation == m.generation.Load() {
		s = c.series
	} else {
		generation := m.generation.Load() // before the look-up: what ends meanwhile must show
		s = m.requests.get(labels, m.exists)
		if c != nil {
			*c = Cache{labels, s, generation}
		}
	}
	s.total.Inc()
	s.duration.Observe(x.Duration.Seconds())
	s.in.Add(float64(x.In))
	s.out.Add(float64(x.Out))
}

// Refused counts something that was refused. protocol is "http", "tcp" or "udp".
func (m *Meter) Refused(protocol, namespace, service string, r refusal.Reason) {
	m.refusals.get(refusalLabels{protocol, namespace, service, string(r)}, m.exists).Inc()
}

// Audited counts something that passed and that access control would have denied, were it enforced.
func (m *Meter) Audited(a Audit) { m.audits.get(a, m.exists).Inc() }

// Cut counts a live connection that a new policy ended.
func (m *Meter) Cut(protocol, reason string) { m.vectors.cuts.WithLabelValues(protocol, reason).Inc() }

// Connections returns the counters of TCP connections between peers.
func (m *Meter) Connections(p Peers) *Connections { return m.conns.get(connLabels{p}, m.exists) }

// Flows returns the counters of UDP flows between peers.
func (m *Meter) Flows(p Peers) *Flows { return m.flows.get(connLabels{p}, m.exists) }

// Retried counts another attempt at a request to a service.
func (m *Meter) Retried() { m.vectors.retries.Inc() }

// Endpoints are what is known of all endpoints.
type Endpoints interface {
	Ejections() uint64 // there were so far
	Ejected() int      // now
}

// Tenants says what the namespaces of clients use.
type Tenants interface {
	// EachTenant calls f for each namespace that uses something; the empty one is that of clients that nobody knows.
	EachTenant(f func(namespace string, connections, requests, bytes int64))
	// EachWait calls f for each namespace, with how long its requests have waited for the proxy's CPU.
	EachWait(f func(namespace string, waited time.Duration))
}

// WatchTenants shows what the namespaces of clients use. It is called once at most.
func (m *Meter) WatchTenants(t Tenants) { m.vectors.register(m.registerer, newTenantCollector(t)) }

// Watch shows how endpoints fare. It is called once at most.
func (m *Meter) Watch(e Endpoints) {
	m.vectors.register(m.registerer,
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: prefix + "ejections_total", Help: "Endpoints that were set aside because they failed.",
		}, func() float64 { return float64(e.Ejections()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: prefix + "ejected_endpoints", Help: "Endpoints that are set aside because they failed.",
		}, func() float64 { return float64(e.Ejected()) }))
}

// AcceptFailed counts a connection that could not be accepted.
func (m *Meter) AcceptFailed() { m.vectors.acceptFailures.Inc() }

// RetryDenied counts an attempt that was not made, as there were too many.
func (m *Meter) RetryDenied() { m.vectors.retriesDenied.Inc() }

// CircuitOpened counts that the circuit breaker of a service opened.
func (m *Meter) CircuitOpened(namespace, service string) {
	m.circuits.get(serviceLabels{namespace, service}, m.exists).Inc()
}

// ConnectFailed counts a connect to an endpoint that failed.
func (m *Meter) ConnectFailed() { m.vectors.connectFailures.Inc() }

// Panicked counts a panic that cost one connection. where is "http", "tcp" or "udp".
func (m *Meter) Panicked(where string) { m.vectors.panics.WithLabelValues(where).Inc() }

// Listeners shows the number of open listeners. protocol is "tcp" or "udp".
func (m *Meter) Listeners(protocol string, n int) {
	m.vectors.listeners.WithLabelValues(protocol).Set(float64(n))
}

// HTTPConnections counts clients' HTTP connections that came (1) or went (-1).
func (m *Meter) HTTPConnections(n int) { m.vectors.httpConnections.Add(float64(n)) }

// Known makes the meter count a service by its name; what is about other services is counted as overflow.
func (m *Meter) Known(service string) {
	m.mu.Lock()
	known := m.services[service]
	m.services[service] = true
	m.mu.Unlock()
	if !known {
		m.generation.Add(1)
	}
}

// Forget drops all series that name a service.
func (m *Meter) Forget(service string) {
	m.mu.Lock()
	delete(m.services, service)
	m.mu.Unlock()
	m.requests.forget(service, m.vectors.dropRequest)
	m.conns.forget(service, m.vectors.dropConnection)
	m.flows.forget(service, m.vectors.dropFlow)
	m.refusals.forget(service, m.vectors.dropRefusal)
	m.circuits.forget(service, m.vectors.dropCircuit)
	m.generation.Add(1)
	m.audits.forget(service, m.vectors.dropAudit)
}

func (m *Meter) exists(service string) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.services[service]
}

// class is the label for a status: fine statuses would multiply the series.
func class(status int) string {
	if status < 100 || status > 599 {
		return "none"
	}
	return [...]string{"1xx", "2xx", "3xx", "4xx", "5xx"}[status/100-1]
}
