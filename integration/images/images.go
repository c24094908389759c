// Package images writes the small images that the cluster and its tests need, as OCI archives, without a registry or a
// container engine.
package images

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Image says what is in an image of one layer, for Linux and this machine's architecture.
type Image struct {
	Ref        string            // name with its tag
	Entrypoint string            // one program, no arguments
	Files      map[string]string // path in the image -> local file
	Links      map[string]string // path in the image -> target of the symbolic link
}

// WriteCached writes an archive into a folder, unless one of the same content is there, and returns its path.
func WriteCached(dir string, img Image) (string, error) {
	layer, err := img.layer()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(slices.Concat([]byte(img.Ref+" "+img.Entrypoint+"\n"), layer))
	name, _, _ := strings.Cut(path.Base(img.Ref), ":")
	archive := filepath.Join(dir, name+"-"+hex.EncodeToString(sum[:6])+".tar")
	if _, err := os.Stat(archive); err == nil {
		return archive, nil
	}
	return archive, img.write(archive, layer)
}

// Write writes an OCI archive.
func Write(archive string, img Image) error {
	layer, err := img.layer()
	if err != nil {
		return err
	}
	return img.write(archive, layer)
}

func (img Image) write(archive string, layer []byte) error {
	image, err := img.assemble(layer)
	if err != nil {
		return fmt.Errorf("image %s: %w", img.Ref, err)
	}
	if err := os.MkdirAll(filepath.Dir(archive), 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(filepath.Dir(archive), ".layout-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		return fmt.Errorf("image %s: %w", img.Ref, err)
	}
	_, tag, _ := strings.Cut(path.Base(img.Ref), ":")
	err = l.AppendImage(image, layout.WithPlatform(platform()), layout.WithAnnotations(map[string]string{
		"io.containerd.image.name": img.Ref, "org.opencontainers.image.ref.name": tag,
	}))
	if err != nil {
		return fmt.Errorf("image %s: %w", img.Ref, err)
	}
	return tarFolder(archive, dir)
}

func platform() v1.Platform { return v1.Platform{OS: "linux", Architecture: runtime.GOARCH} }

func (img Image) assemble(layer []byte) (v1.Image, error) {
	image := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	image = mutate.ConfigMediaType(image, types.OCIConfigJSON)
	image, err := mutate.AppendLayers(image, static.NewLayer(layer, types.OCIUncompressedLayer))
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = platform().OS, platform().Architecture
	config.Config = v1.Config{Entrypoint: []string{img.Entrypoint}, Env: []string{"PATH=/usr/bin:/bin"}}
	return mutate.ConfigFile(image, config)
}

// layer is a tar archive without times or owners, so that equal files give equal images.
func (img Image) layer() ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	made := map[string]bool{"/": true}
	if err := makeDir(w, made, "/tmp", 0o1777); err != nil {
		return nil, err
	}
	for _, dst := range slices.Sorted(maps.Keys(img.Files)) {
		if err := makeDir(w, made, path.Dir(dst), 0o755); err != nil {
			return nil, err
		}
		content, err := os.ReadFile(img.Files[dst])
		if err != nil {
			return nil, err
		}
		h := &tar.Header{Typeflag: tar.TypeReg, Name: dst[1:], Mode: 0o755, Size: int64(len(content))}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(img.Links)) {
		if err := makeDir(w, made, path.Dir(name), 0o755); err != nil {
			return nil, err
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name[1:], Linkname: img.Links[name], Mode: 0o777}); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), w.Close()
}

func makeDir(w *tar.Writer, made map[string]bool, dir string, mode int64) error {
	if made[dir] {
		return nil
	}
	if err := makeDir(w, made, path.Dir(dir), 0o755); err != nil {
		return err
	}
	made[dir] = true
	return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir[1:] + "/", Mode: mode})
}

func tarFolder(archive, dir string) error {
	part := dir + ".tar"
	f, err := os.Create(part)
	if err != nil {
		return err
	}
	w := tar.NewWriter(f)
	if err := errors.Join(w.AddFS(os.DirFS(dir)), w.Close(), f.Close()); err != nil {
		_ = os.Remove(part)
		return err
	}
	return os.Rename(part, archive)
}
