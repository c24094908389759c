package images

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("code"), 0o755); err != nil {
		t.Fatal(err)
	}
	img := Image{
		Ref: "example.com/x:1", Entrypoint: "/bin/x",
		Files: map[string]string{"/bin/x": program}, Links: map[string]string{"/bin/y": "x"},
	}
	a, b := filepath.Join(dir, "a.tar"), filepath.Join(dir, "b.tar")
	for _, archive := range []string{a, b} {
		if err := Write(archive, img); err != nil {
			t.Fatal(err)
		}
	}
	unpacked := untar(t, a)
	p, err := layout.ImageIndexFromPath(unpacked)
	if err != nil {
		t.Fatal(err)
	}
	index, err := p.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if got := index.Manifests[0].Annotations["io.containerd.image.name"]; got != img.Ref {
		t.Errorf("the archive calls the image %q, want %q", got, img.Ref)
	}
	image, err := p.Image(index.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if got := config.Config.Entrypoint; len(got) != 1 || got[0] != "/bin/x" {
		t.Errorf("entrypoint %q", got)
	}
	files := contents(t, tar.NewReader(mutate.Extract(image)))
	if files["bin/x"] != "code" || files["bin/y"] != "-> x" {
		t.Errorf("files of the image: %v", files)
	}
	other, err := layout.ImageIndexFromPath(untar(t, b))
	if err != nil {
		t.Fatal(err)
	}
	d1, err1 := p.Digest()
	d2, err2 := other.Digest()
	if err1 != nil || err2 != nil || d1 != d2 {
		t.Errorf("the same image written twice: %v and %v (%v, %v)", d1, d2, err1, err2)
	}
}

func TestWriteCachedKnowsContents(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	var paths []string
	for _, code := range []string{"one", "one", "two"} {
		if err := os.WriteFile(program, []byte(code), 0o755); err != nil {
			t.Fatal(err)
		}
		p, err := WriteCached(dir, Image{Ref: "example.com/x:1", Files: map[string]string{"/x": program}})
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, p)
	}
	if paths[0] != paths[1] || paths[1] == paths[2] {
		t.Errorf("archives of equal, equal and other contents: %v", paths)
	}
}

func untar(t *testing.T, archive string) string {
	t.Helper()
	b, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, content := range contents(t, tar.NewReader(bytes.NewReader(b))) {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// contents are the files of a tar archive, and "-> target" for links.
func contents(t *testing.T, r *tar.Reader) map[string]string {
	t.Helper()
	files := map[string]string{}
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		switch h.Typeflag {
		case tar.TypeReg:
			b, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			files[h.Name] = string(b)
		case tar.TypeSymlink:
			files[h.Name] = "-> " + h.Linkname
		}
	}
}
