package refusal_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/proxy/refusal"
)

// constants reads the reasons from the source, so that none is left out of All.
func constants(t *testing.T) []refusal.Reason {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "refusal.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []refusal.Reason
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if typ, ok := spec.Type.(*ast.Ident); ok && typ.Name == "Reason" {
			s, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, refusal.Reason(s))
		}
		return true
	})
	return out
}

func TestAllListsEveryReason(t *testing.T) {
	if all, want := refusal.All(), constants(t); !slices.Equal(all, want) {
		t.Errorf("All is %v, the constants are %v", all, want)
	}
}

func TestEveryReasonIsDocumentedAsItIsTold(t *testing.T) {
	b, err := os.ReadFile("../../../docs/reasons.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.SplitSeq(string(b), "\n") {
		if strings.HasPrefix(line, "| `") {
			rows++
		}
	}
	if rows != len(refusal.All()) {
		t.Errorf("%d rows for %d reasons", rows, len(refusal.All()))
	}
	for _, r := range refusal.All() {
		a := r.Answer()
		row := fmt.Sprintf("| `%s` | %d | %d |", r, a.Status, a.GRPC)
		if a.Status == 0 {
			row = fmt.Sprintf("| `%s` | – | – |", r)
		}
		if !strings.Contains(string(b), row) {
			t.Errorf("no row that begins with %q", row)
		}
		if a.Text == "" || strings.ContainsAny(a.Text, "\r\n%") {
			t.Errorf("%s: text %q is no line, or needs encoding in gRPC", r, a.Text)
		}
	}
}
