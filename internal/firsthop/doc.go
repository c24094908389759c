// Package firsthop finds out, from inside a pod, where a call to a Service of the proxies ends and as whom the proxy sees
// the caller: it asks the mesh DNS behind the Service who it is. Nothing of it is cached, so the answer is about now.
//
// Functions return after the goroutines that they started.
package firsthop
