// Package controller is the loop: it turns snapshots of the cluster into config for the proxies, and, on the elected
// leader, into shadow Services and reports. It knows neither Kubernetes clients nor sockets: what it needs is handed in.
package controller

import (
	"context"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// Source gives the current objects. Changed has capacity one: latest wins.
type Source interface {
	Changed() <-chan struct{}
	Snapshot() Snapshot
}

// Snapshot is the cluster at one moment.
type Snapshot struct {
	Resources topology.Resources
	Shadow    shadow.State
	Proxies   []shadow.Proxy
}

// Publisher gives config to the proxies.
type Publisher interface {
	// Publish replaces what all proxies get (common, sorted by key) and what single proxies get besides (by pod name).
	Publish(common []configv1.Resource, perProxy map[string][]configv1.Resource)
}

// Writer changes the cluster. It is called on the leader only.
type Writer interface {
	Apply(ctx context.Context, c shadow.Changes) error
	// Report makes Events of problems that are new and keeps the list for `tulle check`.
	Report(ctx context.Context, problems []problem.Problem) error
}
