// Package shop is the small shop that the demos and the README are about, for a real cluster: the Services and splits of
// `tulle demo`, with Deployments of the test tool where those have pods of the loopback.
package shop

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/integration/cluster"
)

// Namespace is the shop's.
const Namespace = "shop"

//go:embed apps.yaml
var apps string

// deployments are the programs behind the Services, and a client.
func deployments() []string { return []string{"web-v1", "web-v2", "ledger", "gauge", "client"} }

// Deploy makes the namespace with the Services and their programs in it, and waits for the programs.
func Deploy(ctx context.Context, k cluster.Kubectl, root string) error {
	services, err := Examples(root, "Service")
	if err != nil {
		return err
	}
	if _, err := k.Run(ctx, "create", "namespace", Namespace); err != nil {
		return err
	}
	if _, err := k.Apply(ctx, apps+"---\n"+services, "-n", Namespace, "apply", "-f", "-"); err != nil {
		return err
	}
	for _, name := range deployments() {
		if _, err := k.Run(ctx, "-n", Namespace, "rollout", "status", "deployment/"+name, "--timeout=2m"); err != nil {
			return err
		}
	}
	return nil
}

// Examples returns the objects of some kinds from the examples of `tulle demo`, as YAML. root is the source tree.
func Examples(root string, kinds ...string) (string, error) {
	files, err := filepath.Glob(filepath.Join(root, "cmd", "tulle", "examples", "*.yaml"))
	if err != nil {
		return "", err
	}
	var docs []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return "", err
		}
		for doc := range strings.SplitSeq(string(b), "\n---\n") {
			var o struct{ Kind string }
			if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
				return "", fmt.Errorf("%s: %w", f, err)
			}
			if slices.Contains(kinds, o.Kind) {
				docs = append(docs, doc)
			}
		}
	}
	if len(docs) == 0 {
		return "", errors.New("no such examples")
	}
	return strings.Join(docs, "\n---\n") + "\n", nil
}
