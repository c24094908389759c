// Package holder keeps the proxy's listening sockets open while the worker, the process that serves them, comes and
// goes. The holder is PID 1 of the proxy's container: it opens sockets when the worker asks, hands them over, keeps
// them, and starts the next worker when one ends or hangs. Connections wait in the kernel's queues meanwhile; none is
// refused. docs/design/holder.md says how and why.
//
// Run is the holder; it owns all its goroutines and the worker process, which doesn't outlive it. Attach is the
// worker's side.
package holder
