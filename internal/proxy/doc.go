// Package proxy is the data plane: it listens for the mesh's services, decides by the config that it was given where
// a request, connection or datagram goes, and carries it there. It knows api/config and sockets, never Kubernetes.
//
// A Proxy routes by one immutable table behind an atomic pointer. Apply compiles what changed and swaps the pointer;
// listeners, upstream pools, health and live connections outlive it. The protocols are served by sub-packages:
// http1 (with upgrades), http2, tcp and udp; exchange is what both HTTPs have in common, route decides, balance and
// upstream choose endpoints, policy says who may call them, refusal names the reasons, meter counts and logs.
//
// Apply may be called by one goroutine at a time. Run owns all goroutines and returns after they ended.
package proxy
