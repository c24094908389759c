// Package ext stands in for a module of Traefik's own repository that is published nowhere: its go.mod replaces it by a
// folder, and the published module has no such folder. Traefik embeds both types in its dynamic configuration, where
// they add nothing.
package ext

// HTTP adds nothing to the HTTP part of the dynamic configuration.
type HTTP struct{}

// DeepCopyInto has nothing to copy.
func (*HTTP) DeepCopyInto(*HTTP) {}

// Router adds nothing to a router.
type Router struct{}

// DeepCopyInto has nothing to copy.
func (*Router) DeepCopyInto(*Router) {}
