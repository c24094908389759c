package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tulle-mesh/tulle/internal/fakeapi"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"tulle": main}) }

// The commands as a user types them. Scripts have a small API server at hand: KUBECONFIG leads to it.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			s := fakeapi.New(t)
			for _, o := range fakeapi.Parse(fakeapi.CoreDNS) {
				s.Put(o)
			}
			file := e.WorkDir + "/kubeconfig"
			e.Setenv("KUBECONFIG", file)
			e.Setenv("SERVER", s.URL)
			return os.WriteFile(file, []byte(`{apiVersion: v1, kind: Config, current-context: fake,
contexts: [{name: fake, context: {cluster: fake, user: fake}}], users: [{name: fake, user: {}}],
clusters: [{name: fake, cluster: {server: "`+s.URL+`"}}]}`), 0o600)
		},
	})
}
