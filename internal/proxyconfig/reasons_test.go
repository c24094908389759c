package proxyconfig_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"
)

// TestEveryReasonIsTested: each reason of the packages smi and topology is shown by a fixture, or by a test of topology.
func TestEveryReasonIsTested(t *testing.T) {
	shown := contents(t, "testdata/*.txtar", "../smi/testdata/*.txtar", "../topology/*_test.go")
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
			if name := spec.(*ast.ValueSpec).Names[0].Name; !strings.Contains(shown, " "+name+": ") && !strings.Contains(shown, "problem."+name+" ") {
				t.Errorf("no fixture and no test shows %s", name)
			}
		}
	}
	if seen == 0 {
		t.Error("reasons.go has no reasons of these packages")
	}
}
