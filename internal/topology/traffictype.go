package topology

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// decide says how a port is served: by the annotation, then appProtocol, then the port's protocol and name, then the
// mesh's default. The scheme is how HTTP would be spoken to the port's endpoints, whatever the protocol is: a split may
// send HTTP to them.
func decide(s settings, p corev1.ServicePort, defaultMode Protocol) (Protocol, Scheme) {
	protocol, scheme := declared(p)
	if p.Protocol == corev1.ProtocolUDP {
		return UDP, SchemeHTTP
	}
	tls := scheme == SchemeHTTPS
	if s.scheme != "" {
		scheme = s.scheme
	}
	switch {
	case s.trafficType == TCP:
		protocol = TCP
	case tls && (s.trafficType != HTTP || s.scheme != SchemeHTTPS):
		// The mesh has no key to look into TLS with, unless it is told that it is the one who speaks TLS.
		protocol = TCP
	case s.trafficType == HTTP:
		protocol = HTTP
	case protocol == "" && defaultMode == TCP:
		protocol = TCP
	case protocol == "":
		protocol = HTTP
	}
	return protocol, scheme
}

// declared is what the port says of itself: its appProtocol, else its name. No protocol means that it says nothing.
func declared(p corev1.ServicePort) (Protocol, Scheme) {
	if p.AppProtocol != nil {
		if protocol, scheme := byAppProtocol(strings.ToLower(*p.AppProtocol)); protocol != "" {
			return protocol, scheme
		}
	}
	return byName(strings.ToLower(p.Name))
}

// byAppProtocol knows the names of https://kubernetes.io/docs/concepts/services-networking/service/#application-protocol
// (prefixed ones and those of IANA). An IANA name that is not HTTP's is a protocol over TCP; a prefixed name that the
// mesh doesn't know says nothing.
func byAppProtocol(name string) (Protocol, Scheme) {
	switch name {
	case "http", "http/1.1", "http-alt", "www", "ws", "grpc-web", "kubernetes.io/ws":
		return HTTP, SchemeHTTP
	case "h2c", "http2", "grpc", "kubernetes.io/h2c":
		return HTTP, SchemeH2C
	case "https", "https-alt", "tls", "ssl", "wss", "h2", "kubernetes.io/wss":
		return TCP, SchemeHTTPS
	}
	if name == "" || strings.Contains(name, "/") {
		return "", SchemeHTTP
	}
	return TCP, SchemeHTTP
}

// byName takes the name up to the first dash, so that "http-admin" is HTTP.
func byName(name string) (Protocol, Scheme) {
	if name == "grpc-web" || strings.HasPrefix(name, "grpc-web-") {
		return HTTP, SchemeHTTP
	}
	word, _, _ := strings.Cut(name, "-")
	switch word {
	case "http", "ws":
		return HTTP, SchemeHTTP
	case "http2", "h2c", "grpc":
		return HTTP, SchemeH2C
	case "https", "tls", "ssl", "wss", "h2":
		return TCP, SchemeHTTPS
	case "tcp",
		// Names that people give to ports of these protocols. As HTTP they would hang: where the server speaks first,
		// the client waits for it.
		"amqp", "dns", "kafka", "ldap", "ldaps", "memcached", "mongo", "mongodb", "mqtt", "mysql", "nats",
		"postgres", "postgresql", "redis", "smtp", "ssh":
		return TCP, SchemeHTTP
	}
	return "", SchemeHTTP
}
