package conformance

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/summerwind/h2spec/config"
	"github.com/summerwind/h2spec/generic"
	"github.com/summerwind/h2spec/hpack"
	"github.com/summerwind/h2spec/http2"
	"github.com/summerwind/h2spec/spec"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

// otherwise are the cases in which the data plane does otherwise than h2spec wants it, and why. docs/data-plane.md has them,
// too.
var otherwise = map[string]string{
	"http2/3.5/2":     "what does not begin as HTTP/2 is HTTP/1, and refused as such",
	"http2/6.5.3/1":   "a setting twice in one frame is refused, as no client has reason for it",
	"http2/8.1.2.2/1": "the request is refused by an answer of 400, not by a reset of its stream",
	"http2/8.1.2.2/2": "the request is refused by an answer of 400, not by a reset of its stream",
}

// TestHTTP2 puts all of h2spec to the data plane, whose backend speaks HTTP/1.
func TestHTTP2(t *testing.T) {
	l := listen(t)
	backend := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // which may be malformed
		fmt.Fprint(w, strings.Repeat("x", 1<<10))
	})}
	go func() { _ = backend.Serve(l) }()
	t.Cleanup(func() { backend.Close() })
	front := mesh(t, configv1.Scheme_SCHEME_HTTP, l.Addr())
	c := &config.Config{
		Host: front.IP.String(), Port: front.Port, Path: "/", Timeout: 10 * time.Second, MaxHeaderLen: 4000, Strict: true,
	}
	ran := 0
	for _, g := range []*spec.TestGroup{generic.Spec(), http2.Spec(), hpack.Spec()} {
		ran += group(t, c, g)
	}
	if ran < 140 {
		t.Errorf("only %d cases", ran)
	}
}

// group runs the cases of a group and of those below it, and says how many there are.
func group(t *testing.T, c *config.Config, g *spec.TestGroup) int {
	n := 0
	for i, one := range append(g.Tests, g.StrictTests...) {
		n++
		t.Run(fmt.Sprintf("%s/%d", g.ID(), i+1), func(t *testing.T) {
			t.Parallel() // as some wait for what must not come
			conn, err := spec.Dial(c)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			err = one.Run(c, conn)
			_, differs := otherwise[fmt.Sprintf("%s/%d", g.ID(), i+1)]
			switch {
			case errors.Is(err, spec.ErrSkipped):
				t.Skip("does not apply")
			case differs && err == nil:
				t.Error("is as h2spec wants it, now")
			case err != nil && !differs:
				t.Errorf("%s\n%s\n%v", one.Desc, one.Requirement, err)
			}
		})
	}
	for _, below := range g.Groups {
		n += group(t, c, below)
	}
	return n
}
