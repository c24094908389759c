package images

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

const (
	amd64  = 62
	arm64  = 183
	interp = 3 // PT_INTERP
)

// fakeBinary writes an ELF file of one program header that holds nothing to run.
func fakeBinary(t *testing.T, machine uint16, segment uint32, content string) string {
	t.Helper()
	h := make([]byte, 64+56)
	copy(h, "\x7fELF\x02\x01\x01")
	le := binary.LittleEndian
	le.PutUint16(h[16:], 2) // ET_EXEC
	le.PutUint16(h[18:], machine)
	le.PutUint32(h[20:], 1)
	le.PutUint64(h[32:], 64) // program headers follow
	le.PutUint16(h[52:], 64)
	le.PutUint16(h[54:], 56)
	le.PutUint16(h[56:], 1)
	le.PutUint32(h[64:], segment)
	file := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(file, append(h, content...), 0o700); err != nil {
		t.Fatal(err)
	}
	return file
}

func spec(t *testing.T, program, content string) Spec {
	t.Helper()
	return Spec{
		Ref: "docker.io/tullemesh/" + program + ":v1.2.3", Program: program,
		Binaries: map[string]string{
			"amd64": fakeBinary(t, amd64, 1, "for amd64 "+content), "arm64": fakeBinary(t, arm64, 1, "for arm64 "+content),
		},
		Labels: map[string]string{"org.opencontainers.image.revision": "abc"},
	}
}

func build(t *testing.T, s Spec) Image {
	t.Helper()
	img, err := Build(s)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func digest(t *testing.T, img Image) string {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestBuild(t *testing.T) {
	img := build(t, spec(t, "tulle-proxy", "a"))
	platforms, err := img.Platforms()
	if err != nil || !cmp.Equal(platforms, []string{"linux/amd64", "linux/arm64"}) {
		t.Errorf("platforms are %v, %v", platforms, err)
	}
	m, err := img.index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range m.Manifests {
		one, err := img.index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		config, err := one.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		got := config.Config
		want := v1.Config{
			User: "65532:65532", Entrypoint: []string{"/tulle-proxy"}, WorkingDir: "/", Env: []string{"PATH=/"},
			Labels: map[string]string{
				"org.opencontainers.image.title":    "tulle-proxy",
				"org.opencontainers.image.version":  "v1.2.3",
				"org.opencontainers.image.licenses": "Apache-2.0",
				"org.opencontainers.image.source":   "https://github.com/tulle-mesh/tulle",
				"org.opencontainers.image.revision": "abc",
			},
		}
		if diff := cmp.Diff(want, got); diff != "" || config.Architecture != d.Platform.Architecture {
			t.Errorf("config for %s, of %s (-want +got)\n%s", d.Platform, config.Architecture, diff)
		}
		if diff := cmp.Diff([]string{"tmp/ 1777 0:0", "tulle-proxy 755 0:0 for " + d.Platform.Architecture}, listLayer(t, one)); diff != "" {
			t.Errorf("layer (-want +got)\n%s", diff)
		}
	}
}

// listLayer lists the files of an image's one layer: name, mode, owner and the first words after the ELF header.
func listLayer(t *testing.T, img v1.Image) []string {
	t.Helper()
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	r, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var out []string
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.ModTime.Unix() != 0 {
			t.Errorf("%s is of %v", h.Name, h.ModTime)
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("%s %o %d:%d", h.Name, h.Mode, h.Uid, h.Gid)
		if len(content) > 0 {
			words := strings.Fields(string(content[120:]))
			line += " " + strings.Join(words[:2], " ")
		}
		out = append(out, line)
	}
}

func TestEqualInputGivesEqualDigests(t *testing.T) {
	a, b := build(t, spec(t, "tulle-proxy", "a")), build(t, spec(t, "tulle-proxy", "a"))
	if digest(t, a) != digest(t, b) {
		t.Errorf("%s and %s", digest(t, a), digest(t, b))
	}
	var x, y bytes.Buffer
	if err := errors.Join(Save(&x, a), Save(&y, b)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(x.Bytes(), y.Bytes()) {
		t.Error("the archives differ")
	}
	if c := build(t, spec(t, "tulle-proxy", "c")); digest(t, a) == digest(t, c) {
		t.Error("another program has the same digest")
	}
}

func TestBuildRefuses(t *testing.T) {
	good := spec(t, "tulle-proxy", "a")
	for _, tc := range []struct {
		what string
		edit func(*Spec)
		want string
	}{
		{"no binaries", func(s *Spec) { s.Binaries = nil }, "no binaries"},
		{"no tag", func(s *Spec) { s.Ref = "docker.io/tullemesh/tulle-proxy" }, "tulle-proxy"},
		{"another architecture", func(s *Spec) { s.Binaries = map[string]string{"amd64": good.Binaries["arm64"]} }, "EM_AARCH64"},
		{"an unknown architecture", func(s *Spec) { s.Binaries = map[string]string{"mips": good.Binaries["arm64"]} }, "mips"},
		{"a dynamic binary", func(s *Spec) {
			s.Binaries = map[string]string{"amd64": fakeBinary(t, amd64, interp, "")}
		}, "CGO_ENABLED=0"},
		{"no ELF file", func(s *Spec) { s.Binaries = map[string]string{"amd64": "images_test.go"} }, "images_test.go"},
		{"no file", func(s *Spec) { s.Binaries = map[string]string{"amd64": "nowhere"} }, "nowhere"},
	} {
		s := good
		tc.edit(&s)
		if _, err := Build(s); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", tc.what, err)
		}
	}
}

// save writes images to an archive and opens that again.
func save(t *testing.T, images ...Image) *Archive {
	t.Helper()
	var b bytes.Buffer
	if err := Save(&b, images...); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "images.tar")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := Open(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

func TestArchive(t *testing.T) {
	images := []Image{build(t, spec(t, "tulle-controller", "a")), build(t, spec(t, "tulle-proxy", "b"))}
	got := save(t, images...).Images
	if len(got) != 2 {
		t.Fatalf("%d images came back", len(got))
	}
	for i, img := range got {
		if img.Ref != images[i].Ref || digest(t, img) != digest(t, images[i]) {
			t.Errorf("%s became %s", images[i].Ref, img.Ref)
		}
		if err := validate.Index(img.index); err != nil {
			t.Error(err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	for what, name := range map[string]string{
		"a way out": "../outside", "an absolute path": "/etc/passwd", "another file": "blobs/sha256/x",
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := errors.Join(w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg}), w.Close()); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "images.tar")
		if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(file); err == nil || !strings.Contains(err.Error(), "does not belong") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := Open("images_test.go"); err == nil {
		t.Error("a file that is no archive was opened")
	}
}

func TestPush(t *testing.T) {
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer s.Close()
	host := strings.TrimPrefix(s.URL, "http://")
	t.Setenv("DOCKER_CONFIG", t.TempDir()) // nobody's credentials
	img := save(t, build(t, spec(t, "tulle-proxy", "a"))).Images[0]
	ref, err := Push(t.Context(), img, PushOptions{Registry: host + "/mesh/"})
	if err != nil {
		t.Fatal(err)
	}
	if want := host + "/mesh/tulle-proxy@" + digest(t, img); ref != want {
		t.Errorf("pushed as %s, want %s", ref, want)
	}
	for _, at := range []string{ref, host + "/mesh/tulle-proxy:v1.2.3"} {
		r, err := name.ParseReference(at)
		if err != nil {
			t.Fatal(err)
		}
		index, err := remote.Index(r, remote.WithContext(t.Context()))
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Index(index); err != nil {
			t.Errorf("%s: %v", at, err)
		}
	}

	s.Close()
	if _, err := Push(t.Context(), img, PushOptions{Registry: host}); err == nil || !strings.Contains(err.Error(), host) {
		t.Errorf("pushing to nobody: %v", err)
	}
}
