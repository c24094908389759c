package drain

import (
	"context"
	"time"
)

// Quiet returns when a count has not changed for a while, or with ctx's error.
func Quiet(ctx context.Context, count func() int64, while time.Duration) error {
	for last := count(); ; {
		select {
		case <-time.After(while):
		case <-ctx.Done():
			return ctx.Err() //nolint:wrapcheck // says all
		}
		now := count()
		if now == last {
			return nil
		}
		last = now
	}
}
