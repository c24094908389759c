// Package dns is the mesh's DNS: an embedded CoreDNS server on sockets that it is given, with one plugin, tulle, that
// answers the names of the mesh zones from a View of the proxy's config. It never asks another server: what is no mesh
// name is refused, so that a resolver that forwards to it can't be led in a circle.
//
// Server.Run owns the goroutines of the server and returns after they ended. Everything else here is a function of the
// query and the View.
package dns
