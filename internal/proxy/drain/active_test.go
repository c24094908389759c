package drain_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/drain"
)

func TestDrainWaitsUntilEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a drain.Active
		done, ok := a.Add(func() { t.Error("cut") })
		if !ok {
			t.Fatal("not taken in")
		}
		begun := time.Now()
		time.AfterFunc(time.Minute, done)
		if err := a.Drain(t.Context()); err != nil || time.Since(begun) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
	})
}

func TestDrainCutsWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a drain.Active
		var done func()
		done, _ = a.Add(func() { time.AfterFunc(time.Second, done) }) // takes a while to end
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begun := time.Now()
		if err := a.Drain(ctx); !errors.Is(err, drain.ErrCut) || time.Since(begun) != 61*time.Second {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
		if _, ok := a.Add(nil); ok {
			t.Error("something new was let in")
		}
	})
}

func TestCutOfNothing(t *testing.T) {
	var a drain.Active
	if n := a.Cut(); n != 0 {
		t.Errorf("cut %d", n)
	}
	if _, ok := a.Add(func() {}); ok {
		t.Error("something new was let in")
	}
}
