package drain_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/drain"
)

func TestQuiet(t *testing.T) {
	for _, c := range []struct {
		name              string
		last, limit, want time.Duration // the last change, when ctx ends, when Quiet returns
		err               error
	}{
		{"at once", 0, time.Minute, 3 * time.Second, nil},
		{"after a while", 11 * time.Second, time.Minute, 15 * time.Second, nil},
		{"never", time.Hour, time.Minute, time.Minute, context.DeadlineExceeded},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), c.limit)
				defer cancel()
				begun, count := time.Now(), atomic.Int64{}
				var counting sync.WaitGroup
				defer counting.Wait()
				counting.Go(func() {
					for time.Since(begun) < c.last && ctx.Err() == nil {
						count.Add(1)
						<-time.After(time.Second)
					}
				})
				err := drain.Quiet(ctx, count.Load, 3*time.Second)
				if took := time.Since(begun); took != c.want || !errors.Is(err, c.err) {
					t.Errorf("%v after %v, want %v after %v", err, took, c.err, c.want)
				}
			})
		})
	}
}
