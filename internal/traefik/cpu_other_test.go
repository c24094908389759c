//go:build !unix

package traefik_test

import (
	"testing"
	"time"
)

// cpu has no better clock here than the one on the wall.
func cpu(*testing.T) time.Duration { return time.Duration(time.Now().UnixNano()) }
