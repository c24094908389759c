package images

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// nameAnnotation is by what containerd names an image that it imports.
const (
	nameAnnotation = "io.containerd.image.name"
	tagAnnotation  = "org.opencontainers.image.ref.name"
)

// Save writes images as one OCI archive, which `ctr images import`, `kind load image-archive` and skopeo read.
func Save(w io.Writer, images ...Image) error {
	a := archiveWriter{tar: tar.NewWriter(w), written: map[v1.Hash]bool{}}
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	for _, img := range images {
		desc, err := a.index(img.index)
		if err != nil {
			return fmt.Errorf("save image %s: %w", img.Ref, err)
		}
		desc.Annotations = map[string]string{nameAnnotation: img.Ref, tagAnnotation: tag(img.Ref)}
		index.Manifests = append(index.Manifests, desc)
	}
	b, err := json.Marshal(index)
	if err != nil {
		return fmt.Errorf("save images: %w", err)
	}
	return errors.Join(
		a.file("index.json", int64(len(b)), bytes.NewReader(b)),
		a.file("oci-layout", int64(len(layoutFile)), strings.NewReader(layoutFile)),
		a.tar.Close())
}

const layoutFile = `{"imageLayoutVersion":"1.0.0"}`

// tag returns what follows the last colon of a reference's last part.
func tag(ref string) string {
	_, tag, _ := strings.Cut(ref[strings.LastIndex(ref, "/")+1:], ":")
	return tag
}

// archiveWriter writes blobs into an archive, each once.
type archiveWriter struct {
	tar     *tar.Writer
	written map[v1.Hash]bool
}

// index writes an index with its images and returns its descriptor.
func (a *archiveWriter) index(index v1.ImageIndex) (v1.Descriptor, error) {
	m, err := index.IndexManifest()
	if err != nil {
		return v1.Descriptor{}, err
	}
	for _, d := range m.Manifests {
		img, err := index.Image(d.Digest)
		if err != nil {
			return v1.Descriptor{}, err
		}
		if err := a.image(img); err != nil {
			return v1.Descriptor{}, err
		}
	}
	return a.raw(m.MediaType, index.RawManifest)
}

func (a *archiveWriter) image(img v1.Image) error {
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		if err := a.layer(l); err != nil {
			return err
		}
	}
	if _, err := a.raw(types.OCIConfigJSON, img.RawConfigFile); err != nil {
		return err
	}
	_, err = a.raw(types.OCIManifestSchema1, img.RawManifest)
	return err
}

func (a *archiveWriter) layer(l v1.Layer) error {
	h, err := l.Digest()
	if err != nil || a.written[h] {
		return err
	}
	size, err := l.Size()
	if err != nil {
		return err
	}
	r, err := l.Compressed()
	if err != nil {
		return err
	}
	defer r.Close()
	a.written[h] = true
	return a.file("blobs/sha256/"+h.Hex, size, r)
}

func (a *archiveWriter) raw(t types.MediaType, read func() ([]byte, error)) (v1.Descriptor, error) {
	b, err := read()
	if err != nil {
		return v1.Descriptor{}, err
	}
	h, size, err := v1.SHA256(bytes.NewReader(b))
	if err != nil {
		return v1.Descriptor{}, err
	}
	d := v1.Descriptor{MediaType: t, Digest: h, Size: size}
	if a.written[h] {
		return d, nil
	}
	a.written[h] = true
	return d, a.file("blobs/sha256/"+h.Hex, size, bytes.NewReader(b))
}

func (a *archiveWriter) file(name string, size int64, r io.Reader) error {
	if err := a.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size}); err != nil {
		return err
	}
	_, err := io.Copy(a.tar, r)
	return err
}

// Archive is a saved archive, opened.
type Archive struct {
	Images []Image
	dir    string
}

// Close removes what Open unpacked; the images are gone then.
func (a *Archive) Close() error { return os.RemoveAll(a.dir) }

// Open reads an archive that Save wrote.
func Open(file string) (*Archive, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	dir, err := os.MkdirTemp("", "tulle-images-")
	if err != nil {
		return nil, err
	}
	a := &Archive{dir: dir}
	if err := errors.Join(unpack(f, dir), a.read()); err != nil {
		return nil, errors.Join(fmt.Errorf("open images %s: %w", file, err), a.Close())
	}
	return a, nil
}

// unpack unpacks the files of an OCI archive and refuses any other.
func unpack(r io.Reader, dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o700); err != nil {
		return err
	}
	known := regexp.MustCompile(`^(index\.json|oci-layout|blobs/sha256/[0-9a-f]{64})$`)
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeDir {
			continue
		}
		if h.Typeflag != tar.TypeReg || !known.MatchString(h.Name) {
			return fmt.Errorf("%q does not belong into an OCI archive", h.Name)
		}
		if err := writeFile(filepath.Join(dir, filepath.FromSlash(h.Name)), t); err != nil {
			return err
		}
	}
}

func writeFile(file string, r io.Reader) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

func (a *Archive) read() error {
	all, err := layout.ImageIndexFromPath(a.dir)
	if err != nil {
		return err
	}
	m, err := all.IndexManifest()
	if err != nil {
		return err
	}
	for _, d := range m.Manifests {
		index, err := all.ImageIndex(d.Digest)
		if err != nil {
			return err
		}
		ref := d.Annotations[nameAnnotation]
		if ref == "" {
			return fmt.Errorf("image %s has no name", d.Digest)
		}
		a.Images = append(a.Images, Image{Ref: ref, index: index})
	}
	return nil
}
