// Package install puts the mesh into a cluster and takes it out again: it renders the embedded chart, applies it
// server-side, waits until the mesh works, and undoes all of it. Its functions run on the caller's goroutine.
package install

import (
	"fmt"
	"io/fs"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"

	"github.com/tulle-mesh/tulle/internal/version"
	"github.com/tulle-mesh/tulle/manifests"
)

// Chart loads the embedded chart. A released build installs its own version.
func Chart() (*chart.Chart, error) {
	var files []*loader.BufferedFile
	err := fs.WalkDir(manifests.Chart, "chart", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := manifests.Chart.ReadFile(path)
		files = append(files, &loader.BufferedFile{Name: strings.TrimPrefix(path, "chart/"), Data: data})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the embedded chart: %w", err)
	}
	c, err := loader.LoadFiles(files)
	if err != nil {
		return nil, fmt.Errorf("load the embedded chart: %w", err)
	}
	if version.Version != "dev" {
		c.Metadata.AppVersion = strings.TrimPrefix(version.Version, "v")
	}
	return c, nil
}
