package topology

import (
	"math"

	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/smi"
)

// candidate is a backend that exists.
type candidate struct {
	service *Service
	weight  int64
	lacks   []string
}

// backendsOf finds the backends of a split in the order they are written. Two shares of one service are added up.
func (b *builder) backendsOf(s *smi.TrafficSplit, root *Service) []*candidate {
	var out []*candidate
	var missing []string
	found := map[string]*candidate{}
	for _, sb := range s.Backends {
		if c, ok := found[sb.Service]; ok {
			if c != nil {
				c.weight = min(c.weight+sb.Weight, math.MaxUint32)
			}
			continue
		}
		found[sb.Service] = nil
		service := b.backend(Name{s.Ref.Namespace, sb.Service})
		if service == nil {
			missing = append(missing, sb.Service)
			continue
		}
		if service == root {
			b.report(s.Ref, problem.SelfReference, "the root service %s is a backend, too; that share goes to its own endpoints", problem.Quote(sb.Service))
		}
		c := &candidate{service: service, weight: sb.Weight}
		found[sb.Service] = c
		out = append(out, c)
	}
	if len(missing) > 0 {
		b.report(s.Ref, problem.BackendNotFound, "these backends do not exist or cannot be meshed, and get nothing until that changes: %s", problem.QuoteAll(missing))
	}
	return out
}

// backend returns a service for its endpoints; one that is not meshed itself joins the list for them.
func (b *builder) backend(name Name) *Service {
	if s := b.services[name]; s != nil {
		return s
	}
	svc := b.index.services[name]
	if svc == nil || !isAPIServer(svc) {
		return nil
	}
	s, _ := b.service(svc)
	if s != nil {
		s.Backend = true
		b.services[name] = s
	}
	return s
}
