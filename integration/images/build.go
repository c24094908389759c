package images

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// TestImage is the name of the test tool's image.
const TestImage = "example.com/tulle-testtool:1"

const busybox = "/bin/busybox"

// BuildProgram builds a static program of the source tree at root for Linux and returns its path in bin/images there.
func BuildProgram(ctx context.Context, root, pkg string) (string, error) {
	file := filepath.Join(root, "bin", "images", filepath.Base(pkg))
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil { //nolint:gosec // programs for everybody
		return "", err
	}
	dir, err := os.MkdirTemp(filepath.Dir(file), ".build-*") // others build the same
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	part := filepath.Join(dir, filepath.Base(pkg))
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", part, pkg)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", pkg, err, out)
	}
	return file, os.Rename(part, file)
}

// Testtool builds the test tool and returns the archive of its image. With busybox-static installed there is a shell in
// it too; only what people try by hand needs that.
func Testtool(ctx context.Context, root, dir string) (string, error) {
	program, err := BuildProgram(ctx, root, "./integration/images/testtool")
	if err != nil {
		return "", err
	}
	img := Image{Ref: TestImage, Entrypoint: "/bin/testtool", Files: map[string]string{"/bin/testtool": program}}
	if _, err := os.Stat(busybox); err == nil {
		img.Files[busybox] = busybox
		img.Links = map[string]string{"/bin/sh": "busybox", "/bin/wget": "busybox"}
	}
	return WriteCached(dir, img)
}
