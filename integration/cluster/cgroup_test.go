package cluster

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWeight(t *testing.T) {
	for _, tt := range []struct {
		name, file string
		machines   int
		want       string
	}{
		{"version 1", "cpu.shares", 3, "3072"},
		{"version 2", "cpu.weight", 3, "300"},
		{"a control plane alone", "cpu.shares", 1, "1024"},
		{"as many as there may be", "cpu.weight", 100, "10000"},
		{"neither", "cpuset.cpus", 3, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, tt.file), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := setWeight(dir, tt.machines); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(filepath.Join(dir, tt.file)); err != nil || string(got) != tt.want {
				t.Errorf("%s is %q, %v, want %q", tt.file, got, err, tt.want)
			}
			if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
				t.Errorf("files were made: %v, %v", files, err)
			}
		})
	}
}
