package proxyconfig

import (
	"slices"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
	"github.com/tulle-mesh/tulle/internal/shadow"
)

// trustBundle is the name of the one TrustBundle.
const trustBundle = "trust-bundle"

// Trust returns by what proxies know each other, sorted by key: the trust bundle, if there is one, and where the proxies
// of each node are.
func Trust(bundle *configv1.TrustBundle, proxies []shadow.Proxy) ([]configv1.Resource, error) {
	nodes := map[string]*configv1.NodeProxies{}
	for _, p := range proxies {
		if p.Node == "" || len(p.Addresses) == 0 {
			continue
		}
		n := nodes[p.Node]
		if n == nil {
			n = &configv1.NodeProxies{}
			nodes[p.Node] = n
		}
		texts := addresses(p.Addresses)
		n.All = append(n.All, texts...)
		switch {
		case p.Ready && p.Tunnels:
			n.Ready = append(n.Ready, texts[0]) // the first is of the family that pods prefer
		case p.Ready:
			n.Plain = true
		}
	}
	out := make([]configv1.Resource, 0, len(nodes)+1)
	for name, n := range nodes {
		slices.Sort(n.All)
		n.Plain = n.Plain && len(n.Ready) == 0
		r, err := configv1.NewResource(name, n)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	if bundle != nil {
		r, err := configv1.NewResource(trustBundle, bundle)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b configv1.Resource) int { return a.Compare(b.Key) })
	return out, nil
}
