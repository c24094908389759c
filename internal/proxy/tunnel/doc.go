// Package tunnel carries connections from one node's proxy to another's, over TLS 1.3 with both sides authenticated.
//
// The caller's proxy shows the SVID of the caller, the destination's proxy its own; a connection therefore belongs to
// one (caller, node) and is used again, for one tunnelled connection after the other, never for two at once: what waits
// for one never waits for another. Which pod and port is meant is said in a short preamble, and the destination's proxy
// refuses what isn't a pod of its own node or not exposed by a Service.
//
// On the TLS connection everything is a frame: one byte that says what it is, two bytes of length, and as much content.
// So the end of one direction, a reset and the bounds of datagrams are told apart from the end of the TLS connection,
// which goes on. docs/design/identity.md says why.
//
// A Client has goroutines for connections that it makes ahead of need or that are being closed; all end by themselves
// within seconds. A Server has one for each connection, and they end with Serve.
package tunnel
