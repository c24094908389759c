package push

import "sync/atomic"

// counts are what a Server counts over its life.
type counts struct {
	denied, nacks, resources, removals atomic.Uint64
}
