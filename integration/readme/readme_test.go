// Package readme holds the README to its word: its commands are executed, its objects are the ones that the demos use.
package readme

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/integration/cluster"
	"github.com/tulle-mesh/tulle/integration/shop"
	"github.com/tulle-mesh/tulle/internal/smi"
)

func TestMain(m *testing.M) {
	cluster.MaybeChild()
	os.Exit(m.Run())
}

// block is a fenced part of the README.
type block struct {
	language string // sh, yaml, or none for pictures
	text     string
}

// readme is the README with the source tree it is of.
type readme struct {
	root, text string
	blocks     []block
}

func read(t *testing.T) readme {
	t.Helper()
	root, err := cluster.FindRoot("")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	r := readme{root: root, text: string(b)}
	for _, m := range regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$").FindAllStringSubmatch(r.text, -1) {
		r.blocks = append(r.blocks, block{language: m[1], text: m[2]})
	}
	return r
}

// commands are the lines of the shell blocks.
func (r readme) commands() []string {
	var out []string
	for _, b := range r.blocks {
		if b.language == "sh" {
			out = append(out, strings.Split(strings.TrimSpace(b.text), "\n")...)
		}
	}
	return out
}

// Nothing is left out below: every block is a picture, commands or objects.
func TestBlocks(t *testing.T) {
	count := map[string]int{}
	for _, b := range read(t).blocks {
		count[b.language]++
	}
	if count[""] != 1 || count["sh"] < 5 || count["yaml"] < 2 || len(count) != 3 {
		t.Errorf("blocks by language: %v, want one picture, sh and yaml", count)
	}
}

// run executes a command as it stands in the README, without a terminal.
func (r readme) run(ctx context.Context, command string, env ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", command)
	cmd.Dir, cmd.Env = r.root, append(os.Environ(), env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

func TestDemo(t *testing.T) {
	const demo = "make demo"
	r := read(t)
	if !slices.Contains(r.commands(), demo) {
		t.Fatalf("the README does not say %s", demo)
	}
	out, err := r.run(t.Context(), demo)
	if err != nil || !strings.Contains(out, "v1: 90, v2: 10") || !strings.Contains(out, "v1: 50, v2: 50") {
		t.Errorf("%s: %v\n%s", demo, err, out)
	}
}

// `make test` can't run itself, but it is what CI runs, and has the parts that the README says.
func TestMakeTest(t *testing.T) {
	const command = "make test"
	r := read(t)
	if !slices.Contains(r.commands(), command) {
		t.Fatalf("the README does not say %s", command)
	}
	ci, err := os.ReadFile(filepath.Join(r.root, ".ci", "run"))
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`(?m)^TULLE_E2E_REQUIRED=1 make test$`).Match(ci) {
		t.Errorf(".ci/run does not run %s with e2e required:\n%s", command, ci)
	}
	out, err := r.run(t.Context(), "make --dry-run test")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, part := range []string{"golangci-lint' run", "integration/check.sh", "go test ./...", "integration/e2e.sh"} {
		if !strings.Contains(out, part) {
			t.Errorf("%s does not run %s:\n%s", command, part, out)
		}
	}
}

// decode decodes the objects of YAML, and wants all of them to be SMI's and good.
func decode(t *testing.T, text string) smi.Objects {
	t.Helper()
	var contents []map[string]any
	for doc := range strings.SplitSeq(text, "\n---\n") {
		var o map[string]any
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatalf("%v in:\n%s", err, doc)
		}
		contents = append(contents, o)
	}
	objects, problems := smi.DecodeAll(contents)
	if len(problems) > 0 {
		t.Errorf("problems %v in:\n%s", problems, text)
	}
	return objects
}

// The objects of the README are those of the demo.
func TestObjects(t *testing.T) {
	r := read(t)
	var all []string
	for _, b := range r.blocks {
		if b.language == "yaml" {
			all = append(all, b.text)
		}
	}
	examples, err := shop.Examples(r.root, "TrafficSplit", "HTTPRouteGroup")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(decode(t, examples), decode(t, strings.Join(all, "\n---\n"))); d != "" {
		t.Errorf("the README's objects differ from the examples' (-examples +README):\n%s", d)
	}
}

// What the README links to is there.
func TestLinks(t *testing.T) {
	r := read(t)
	links := regexp.MustCompile(`\]\(([^)#]+)[^)]*\)`).FindAllStringSubmatch(r.text, -1)
	if len(links) < 5 {
		t.Errorf("%d links", len(links))
	}
	for _, l := range links {
		if _, err := os.Stat(filepath.Join(r.root, l[1])); err != nil && !strings.Contains(l[1], "://") {
			t.Errorf("link to %s: %v", l[1], err)
		}
	}
}

// Commands in the running text exist; those in blocks are executed by the other tests.
func TestMentions(t *testing.T) {
	r := read(t)
	targets, err := r.run(t.Context(), "make help")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("`(make|bin/tulle|tulle) ([a-z -]+?)( --?[a-z-]+)?`").FindAllStringSubmatch(r.text, -1) {
		if m[1] == "make" {
			if !regexp.MustCompile(`(?m)^` + m[2] + ` `).MatchString(targets) {
				t.Errorf("there is no %s", m[0])
			}
			continue
		}
		out, err := r.run(t.Context(), "go run ./cmd/tulle "+m[2]+" --help")
		if want := "tulle " + m[2]; err != nil || !strings.Contains(out, want) || m[3] != "" && !strings.Contains(out, strings.TrimSpace(m[3])) {
			t.Errorf("there is no %s: %v\n%s", m[0], err, out)
		}
	}
}

// patience is how long one command on the cluster may take: the first one builds.
const patience = 20 * time.Minute
