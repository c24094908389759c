// Package http1 is the proxy's HTTP/1.1: it reads requests and responses in one way only (RFC 9110, RFC 9112), refuses
// what could be read in two, and carries them between clients and endpoints.
//
// A message's head is parsed in place and rewritten by copying the runs of lines that are kept; bodies are streamed. A
// connection from a client has one goroutine, and a second one while a request's body is still being sent. Buffers are
// pooled, and a connection without a request holds none.
//
// A Server owns the goroutines of its connections; Run returns after they ended.
package http1
