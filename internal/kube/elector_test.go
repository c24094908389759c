package kube

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// candidate is a replica that takes part in elections.
type candidate struct {
	leads chan bool // true when it begins to lead, false when it ends
	stop  context.CancelFunc
	done  chan error
}

func stand(t *testing.T, client *fake.Clientset, pod string) *candidate {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	c := &candidate{leads: make(chan bool, 10), stop: cancel, done: make(chan error, 1)}
	e := Elector{Client: client, Namespace: "tulle-system", Pod: pod, Log: slog.New(slog.DiscardHandler)}
	go func() {
		c.done <- e.Run(ctx, func(ctx context.Context) error {
			c.leads <- true
			<-ctx.Done()
			c.leads <- false
			return nil
		})
	}()
	return c
}

func TestOneLeadsAndTheNextTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		first := stand(t, client, "c-1")
		if !<-first.leads {
			t.Fatal("c-1 does not lead")
		}
		second := stand(t, client, "c-2")
		select {
		case <-second.leads:
			t.Fatal("two lead")
		case <-time.After(time.Minute):
		}
		// An orderly end gives the lead away at once.
		began := time.Now()
		first.stop()
		if <-first.leads {
			t.Error("it began again")
		}
		if err := <-first.done; err != nil {
			t.Error(err)
		}
		if !<-second.leads || time.Since(began) > 5*time.Second {
			t.Errorf("c-2 leads after %v", time.Since(began))
		}
		second.stop()
		if err := <-second.done; err != nil {
			t.Error(err)
		}
	})
}

func TestALeaderThatIsKilledIsFollowedWithin20Seconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		// It is killed: its writes never arrive, nor does its farewell.
		killed := fake.NewClientset()
		first := stand(t, killed, "c-1")
		<-first.leads
		lease, err := killed.CoordinationV1().Leases("tulle-system").Get(t.Context(), LeaseName, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.CoordinationV1().Leases("tulle-system").Create(t.Context(), lease, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		second := stand(t, client, "c-2")
		<-second.leads
		if took := time.Since(began); took > 20*time.Second || took < 5*time.Second {
			t.Errorf("c-2 leads after %v", took)
		}
		first.stop()
		second.stop()
		if err := errors.Join(<-first.done, <-second.done); err != nil {
			t.Error(err)
		}
	})
}

// What runs under a Lease of its own is led apart from the controllers.
func TestEveryLeaseHasItsOwnLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		first := stand(t, client, "c-1")
		<-first.leads
		over := errors.New("over")
		e := Elector{Client: client, Namespace: "tulle-system", Pod: "d-1", Name: DNSWriter, Log: slog.New(slog.DiscardHandler)}
		if err := e.Run(t.Context(), func(context.Context) error { return over }); !errors.Is(err, over) {
			t.Errorf("got %v", err)
		}
		first.stop()
		if err := <-first.done; err != nil {
			t.Error(err)
		}
	})
}

func TestAnErrorOfTheLeadEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		e := Elector{Client: fake.NewClientset(), Namespace: "tulle-system", Pod: "c-1", Log: slog.New(slog.DiscardHandler)}
		if err := e.Run(t.Context(), func(context.Context) error { return broken }); !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
	})
}
