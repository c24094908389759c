// Package controller is the loop: it turns snapshots of the cluster into config for the proxies, and, on the elected
// leader, into shadow Services and reports. It knows neither Kubernetes clients nor sockets: what it needs is handed in.
//
// Run is one goroutine that makes rounds: snapshot, topology, config, publish. Lead is for as long as this replica leads:
// it writes what the newest round says, in goroutines of its own, so that a slow API server never delays a round.
// docs/design/controller.md says why.
package controller

import (
	"context"
	"fmt"
	"net/netip"

	networkingv1 "k8s.io/api/networking/v1"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/bypass"
	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/shadow"
	"github.com/tulle-mesh/tulle/internal/status"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// Source gives the current objects.
type Source interface {
	// Changed has capacity one: latest wins. It is not signalled before there is a whole snapshot.
	Changed() <-chan struct{}
	// Snapshot is called by one goroutine. What it returns is immutable.
	Snapshot() Snapshot
}

// Snapshot is the cluster at one moment.
type Snapshot struct {
	Resources topology.Resources
	// Version is of Resources and ServiceCIDRs: while it is the same, so are they. 0 = not known.
	Version uint64
	Shadow  shadow.State
	Proxies []shadow.Proxy // by pod name, also those that are not ready or about to end
	// Policies and Owners are what calls past the mesh depend on. The lists are replaced when they change.
	Policies []*networkingv1.NetworkPolicy
	Owners   []*bypass.Owner
	// ServiceCIDRs are the ranges of the cluster's Services, where the cluster publishes them.
	ServiceCIDRs []netip.Prefix
	// Bypass makes mesh names answer with the plain Services' addresses.
	Bypass bool
	// Replicas are what the other controllers that exist wrote down about their proxies.
	Replicas []status.Replica
	// LeaderRecorded and ReplicaRecorded say whether what this replica wrote down last, as leader and as replica, is
	// there. Somebody may delete it.
	LeaderRecorded, ReplicaRecorded bool
}

// Publisher gives config to the proxies.
type Publisher interface {
	// Publish replaces what all proxies get (common, sorted by key) and what single proxies get besides (by pod name).
	Publish(common []configv1.Resource, perProxy map[string][]configv1.Resource)
}

// Engine is another proxy than the mesh's own. It is given what the proxies do by ways of its own; names are the mesh's.
type Engine interface {
	// Render makes the engine's config. It is called by the goroutine that makes rounds; equal arguments give equal bytes.
	Render(t topology.Topology, a shadow.Assigned) ([]byte, []problem.Problem, error)
	// Publish replaces what the engine's proxies get.
	Publish(config []byte)
	// Status says which engine it is, and its limits, for people.
	Status() status.Engine
}

// Proxies knows the proxies that are connected to this replica.
type Proxies interface {
	// Changed has capacity one and is signalled when a proxy came or went or what it refuses changed.
	Changed() <-chan struct{}
	Connected() []status.Proxy
}

// Writer changes the cluster. It is called on the leader only.
type Writer interface {
	// Apply writes changes, or the first part of them if there are many. It returns when the Source has seen what it
	// wrote, and how many writes that were. What the cluster refused is in the error as WriteErrors, joined.
	Apply(ctx context.Context, c shadow.Changes) (written int, err error)
}

// Reporter makes Events of problems that are new. It is called on the leader only.
type Reporter interface {
	// more says that there was not time for all: call it again.
	Report(ctx context.Context, problems []problem.Problem) (more bool, err error)
}

// Recorder writes the mesh's state down for `tulle check`.
type Recorder interface {
	RecordLeader(ctx context.Context, l status.Leader) error
	RecordReplica(ctx context.Context, r status.Replica) error
}

// WriteError is a write for a mesh address that the cluster refused.
type WriteError struct {
	Shadow    string // the name of the shadow Service
	Op        string // e.g. "create Service"
	Err       error
	Transient bool // it will go away by itself, in all likelihood
}

func (e *WriteError) Error() string { return fmt.Sprintf("%s %s: %v", e.Op, e.Shadow, e.Err) }

func (e *WriteError) Unwrap() error { return e.Err }
