package images

import (
	"path/filepath"
	"sync"
	"testing"
)

// Clusters that start together build the same programs.
func TestBuildsAtTheSameTime(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	var builds sync.WaitGroup
	for range 4 {
		builds.Go(func() {
			if _, err := BuildProgram(t.Context(), root, "./integration/images/testtool"); err != nil {
				t.Error(err)
			}
		})
	}
	builds.Wait()
}
