package controller

import (
	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// Judge says what would be wrong with a decoded SMI object beside those of the newest round; nothing before there is one.
// It is safe for concurrent use.
func (c *Controller) Judge(object any) []problem.Problem {
	r := c.latest.Load()
	if r == nil {
		return nil
	}
	return topology.Judge(c.Topology, r.snapshot.Resources, object)
}
