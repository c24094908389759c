package proxyconfig_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestEveryReasonHasAFixture: each reason of the packages smi and topology is shown by a fixture, here or in smi.
func TestEveryReasonHasAFixture(t *testing.T) {
	var shown strings.Builder
	for _, glob := range []string{"testdata/*.txtar", "../smi/testdata/*.txtar"} {
		files, err := filepath.Glob(glob)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", glob, err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			shown.Write(b)
		}
	}
	file, err := parser.ParseFile(token.NewFileSet(), "../problem/reasons.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, d := range file.Decls {
		decl, ok := d.(*ast.GenDecl)
		doc := ""
		if ok {
			doc = strings.TrimSpace(decl.Doc.Text())
		}
		if !strings.HasSuffix(doc, "package smi.") && !strings.HasSuffix(doc, "package topology.") {
			continue
		}
		for _, spec := range decl.Specs {
			seen++
			if name := spec.(*ast.ValueSpec).Names[0].Name; !strings.Contains(shown.String(), " "+name+": ") {
				t.Errorf("no fixture shows %s", name)
			}
		}
	}
	if seen == 0 {
		t.Error("reasons.go has no reasons of these packages")
	}
}
