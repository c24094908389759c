package exchange_test

import (
	"testing"

	"github.com/tulle-mesh/tulle/internal/proxy/exchange"
)

// The path that is judged is the path that is forwarded; the query stays.
func TestSetPath(t *testing.T) {
	for _, c := range []struct{ target, path, want string }{
		{"/a%2Fb/../c?d=e", "/c", "/c?d=e"}, {"/a", "/b", "/b"}, {"/a?", "/", "/?"}, {"/a?b?c", "/x", "/x?b?c"},
	} {
		var x exchange.Exchange
		x.SetTarget(c.target)
		x.SetPath(c.path)
		if x.Target != c.want || x.Path != c.path {
			t.Errorf("%s with path %s: %s, %s", c.target, c.path, x.Target, x.Path)
		}
	}
}
