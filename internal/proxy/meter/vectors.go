package meter

import "github.com/prometheus/client_golang/prometheus"

// vectors are the metrics themselves.
type vectors struct {
	requests                           *prometheus.CounterVec
	durations                          *prometheus.HistogramVec
	requestBytes, responseBytes        *prometheus.CounterVec
	tcp, udp                           connVectors
	datagramsIn, datagramsOut          *prometheus.CounterVec
	refusals                           *prometheus.CounterVec
	audits, cuts                       *prometheus.CounterVec
	panics                             *prometheus.CounterVec
	listeners                          *prometheus.GaugeVec
	circuits                           *prometheus.CounterVec
	retries, connectFailures, overflow prometheus.Counter
	retriesDenied, acceptFailures      prometheus.Counter
	httpConnections                    prometheus.Gauge
}

type connVectors struct {
	total  *prometheus.CounterVec
	active *prometheus.GaugeVec
	in     *prometheus.CounterVec
	out    *prometheus.CounterVec
}

// Connections counts TCP connections between the same peers.
type Connections struct {
	Total  prometheus.Counter
	Active prometheus.Gauge
	In     prometheus.Counter // bytes from the client
	Out    prometheus.Counter // bytes to the client
}

// Flows counts UDP flows between the same peers.
type Flows struct {
	Connections
	DatagramsIn, DatagramsOut prometheus.Counter
}

type requestSeries struct {
	total    prometheus.Counter
	duration prometheus.Observer
	in, out  prometheus.Counter
}

func newVectors(r prometheus.Registerer) vectors {
	v := vectors{
		requests:      counters("requests_total", "HTTP requests by class of the answer.", peerNames("code")...),
		requestBytes:  counters("request_bytes_total", "Bytes of HTTP request bodies.", peerNames()...),
		responseBytes: counters("response_bytes_total", "Bytes of HTTP response bodies.", peerNames()...),
		tcp:           newConnVectors("tcp", "connections", "TCP connections"),
		udp:           newConnVectors("udp", "flows", "UDP flows"),
		datagramsIn:   counters("udp_received_datagrams_total", "Datagrams from clients.", peerNames()...),
		datagramsOut:  counters("udp_sent_datagrams_total", "Datagrams to clients.", peerNames()...),
		refusals:      counters("refusals_total", "What the proxy refused, by reason (docs/reasons.md).", "protocol", "namespace", "service", "reason"),
		audits:        counters("access_audit_total", "What passed and would have been denied if access control were enforced.", "protocol", "from", "to", "namespace", "service", "reason"),
		cuts:          counters("access_cut_total", "Live connections that a new policy ended.", "protocol", "reason"),
		panics:        counters("panics_total", "Panics, each of which cost one connection.", "where"),
		listeners: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: prefix + "listeners", Help: "Open listeners.",
		}, []string{"protocol"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: prefix + "request_duration_seconds", Help: "Time from an HTTP request's head to the end of its response.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, peerNames()),
		circuits:        counters("circuit_opened_total", "How often a service's circuit breaker opened.", "namespace", "service"),
		acceptFailures:  counter("accept_failures_total", "Accepts that failed, for want of file descriptors most likely."),
		retriesDenied:   counter("retries_denied_total", "Further attempts that were not made, as there were too many."),
		retries:         counter("retries_total", "Further attempts at HTTP requests and TCP connections."),
		connectFailures: counter("connect_failures_total", "Connects to endpoints that failed."),
		overflow:        counter("series_overflow_total", "Events that were counted without their labels: too many series, or a service that is gone."),
		httpConnections: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: prefix + "http_connections", Help: "Open HTTP connections from clients.",
		}),
	}
	v.register(r, v.requests, v.durations, v.requestBytes, v.responseBytes, v.tcp.total, v.tcp.active, v.tcp.in, v.tcp.out,
		v.udp.total, v.udp.active, v.udp.in, v.udp.out, v.datagramsIn, v.datagramsOut, v.refusals, v.audits, v.cuts, v.panics, v.listeners,
		v.circuits, v.retriesDenied, v.acceptFailures, v.retries, v.connectFailures, v.overflow, v.httpConnections)
	return v
}

const prefix = "tulle_proxy_"

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + name, Help: help})
}

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, labels)
}

func newConnVectors(protocol, noun, what string) connVectors {
	return connVectors{
		total: counters(protocol+"_"+noun+"_total", what+" begun.", peerNames()...),
		active: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: prefix + protocol + "_" + noun, Help: what + " open.",
		}, peerNames()),
		in:  counters(protocol+"_received_bytes_total", "Bytes from clients.", peerNames()...),
		out: counters(protocol+"_sent_bytes_total", "Bytes to clients.", peerNames()...),
	}
}

func (v *vectors) register(r prometheus.Registerer, all ...prometheus.Collector) {
	if r == nil {
		return
	}
	for _, c := range all {
		r.MustRegister(c)
	}
}

func (v *vectors) request(l requestLabels) *requestSeries {
	peers := l.values()
	return &requestSeries{
		total:    v.requests.WithLabelValues(l.values(l.code)...),
		duration: v.durations.WithLabelValues(peers...),
		in:       v.requestBytes.WithLabelValues(peers...),
		out:      v.responseBytes.WithLabelValues(peers...),
	}
}

func (v *vectors) dropRequest(l requestLabels) {
	peers := l.values()
	v.requests.DeleteLabelValues(l.values(l.code)...)
	v.durations.DeleteLabelValues(peers...)
	v.requestBytes.DeleteLabelValues(peers...)
	v.responseBytes.DeleteLabelValues(peers...)
}

func (c connVectors) series(l connLabels) Connections {
	peers := l.values()
	return Connections{
		Total: c.total.WithLabelValues(peers...), Active: c.active.WithLabelValues(peers...),
		In: c.in.WithLabelValues(peers...), Out: c.out.WithLabelValues(peers...),
	}
}

func (c connVectors) drop(l connLabels) {
	peers := l.values()
	c.total.DeleteLabelValues(peers...)
	c.active.DeleteLabelValues(peers...)
	c.in.DeleteLabelValues(peers...)
	c.out.DeleteLabelValues(peers...)
}

func (v *vectors) connection(l connLabels) *Connections {
	c := v.tcp.series(l)
	return &c
}

func (v *vectors) flow(l connLabels) *Flows {
	return &Flows{
		Connections:  v.udp.series(l),
		DatagramsIn:  v.datagramsIn.WithLabelValues(l.values()...),
		DatagramsOut: v.datagramsOut.WithLabelValues(l.values()...),
	}
}

func (v *vectors) dropConnection(l connLabels) { v.tcp.drop(l) }

func (v *vectors) dropFlow(l connLabels) {
	v.udp.drop(l)
	v.datagramsIn.DeleteLabelValues(l.values()...)
	v.datagramsOut.DeleteLabelValues(l.values()...)
}

func (v *vectors) refusal(l refusalLabels) prometheus.Counter {
	return v.refusals.WithLabelValues(l.values()...)
}

func (v *vectors) dropRefusal(l refusalLabels) { v.refusals.DeleteLabelValues(l.values()...) }

func (v *vectors) circuit(l serviceLabels) prometheus.Counter {
	return v.circuits.WithLabelValues(l.namespace, l.service)
}

func (v *vectors) dropCircuit(l serviceLabels) {
	v.circuits.DeleteLabelValues(l.namespace, l.service)
}

func (v *vectors) audit(a Audit) prometheus.Counter { return v.audits.WithLabelValues(a.values()...) }

func (v *vectors) dropAudit(a Audit) { v.audits.DeleteLabelValues(a.values()...) }
