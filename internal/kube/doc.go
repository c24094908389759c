// Package kube is the only package with Kubernetes clients: it watches the cluster for the controller (Source), writes
// mesh addresses (Writer), Events (Reporter) and the mesh's state (Recorder), elects a leader (Elector), knows the proxies'
// pods (Authenticator) and keeps the stub domain in the cluster's DNS.
//
// A Source's Run owns the goroutines of its watches. What its Snapshot returns is immutable and shared with its caches:
// nobody may change it.
package kube
