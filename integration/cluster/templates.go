package cluster

import (
	"bytes"
	"embed"
	"fmt"
	"os"
	"text/template"
)

//go:embed templates
var templates embed.FS

// render writes a file from one of the templates.
func render(path, name string, data any) error {
	t, err := template.ParseFS(templates, "templates/"+name)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		return fmt.Errorf("template %s: %w", name, err)
	}
	return os.WriteFile(path, b.Bytes(), 0o600)
}
