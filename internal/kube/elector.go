package kube

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// LeaseName is the Lease that the leading controller holds, in the mesh's namespace.
const LeaseName = "tulle-controller"

// Elector elects one of several replicas. Client, Namespace, Pod and Log are required.
type Elector struct {
	Client    kubernetes.Interface
	Namespace string // the mesh's
	Pod       string // this replica
	Name      string // of the Lease; default LeaseName
	Log       *slog.Logger
	// Another replica leads at most Lease + 4.4 times Retry after a leader is gone: it has to see the Lease change no
	// more for as long as Lease, and it looks every Retry to 2.2 Retry. A leader that cannot renew for Renew stops
	// leading. Defaults: 12 s, 8 s and 1 s.
	Lease, Renew, Retry time.Duration
}

// Run calls lead whenever this replica is elected, with a context that ends with the lead, until ctx ends. An orderly end
// gives the Lease back. An error of lead ends Run.
func (e Elector) Run(ctx context.Context, lead func(context.Context) error) error {
	for ctx.Err() == nil {
		if err := e.once(ctx, lead); err != nil {
			return err
		}
	}
	return nil
}

// once takes part in one election, and leads if it is won until the lead is lost.
func (e Elector) once(ctx context.Context, lead func(context.Context) error) error {
	name := cmp.Or(e.Name, LeaseName)
	ctx, cancel := context.WithCancel(ctx)
	elected := make(chan context.Context, 1)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: e.Namespace, Name: name},
			Client:    e.Client.CoordinationV1(), LockConfig: resourcelock.ResourceLockConfig{Identity: e.Pod},
		},
		LeaseDuration: cmp.Or(e.Lease, 12*time.Second), RenewDeadline: cmp.Or(e.Renew, 8*time.Second), RetryPeriod: cmp.Or(e.Retry, time.Second),
		ReleaseOnCancel: true, Name: name,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) { elected <- ctx },
			OnStoppedLeading: func() {},
			OnNewLeader:      func(pod string) { e.Log.Info("leader elected", "name", pod) },
		},
	})
	if err != nil {
		cancel()
		return fmt.Errorf("elect a leader: %w", err)
	}
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	over := make(chan struct{})
	running.Go(func() {
		defer close(over)
		elector.Run(ctx)
	})
	select {
	case <-over:
		return nil
	case leading := <-elected:
		return lead(leading)
	}
}
