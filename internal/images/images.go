// Package images makes the mesh's container images from static binaries, without a container engine: OCI indexes with
// an image of one layer for each architecture. Equal input gives equal digests. They are kept in OCI archives and
// pushed to registries.
package images

import (
	"debug/elf"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// user and group are what the programs run as; both have no name and own nothing.
const user = "65532:65532"

// Spec says what is in an image.
type Spec struct {
	Ref      string            // name and tag, e.g. "docker.io/tullemesh/tulle-proxy:v1.0.0"
	Program  string            // the entrypoint is "/" and this
	Binaries map[string]string // architecture (amd64, arm64) -> file of a static Linux binary
	Labels   map[string]string // besides those that every image has
}

// Image is an OCI index under a name.
type Image struct {
	Ref   string
	index v1.ImageIndex
}

// Digest returns the index's digest, "sha256:..." .
func (i Image) Digest() (string, error) {
	h, err := i.index.Digest()
	if err != nil {
		return "", fmt.Errorf("digest of image %s: %w", i.Ref, err)
	}
	return h.String(), nil
}

// Platforms returns what the image runs on, such as "linux/amd64".
func (i Image) Platforms() ([]string, error) {
	m, err := i.index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("read image %s: %w", i.Ref, err)
	}
	var out []string
	for _, d := range m.Manifests {
		if d.Platform != nil {
			out = append(out, d.Platform.String())
		}
	}
	return out, nil
}

// Build makes an image.
func Build(spec Spec) (Image, error) {
	if _, err := name.NewTag(spec.Ref, name.StrictValidation); err != nil {
		return Image{}, fmt.Errorf("build image %q: %w", spec.Ref, err)
	}
	if len(spec.Binaries) == 0 {
		return Image{}, fmt.Errorf("build image %s: no binaries", spec.Ref)
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range slices.Sorted(maps.Keys(spec.Binaries)) {
		img, err := buildOne(spec, arch)
		if err != nil {
			return Image{}, fmt.Errorf("build image %s for %s: %w", spec.Ref, arch, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	return Image{Ref: spec.Ref, index: index}, nil
}

func buildOne(spec Spec, arch string) (v1.Image, error) {
	binary := spec.Binaries[arch]
	if err := checkBinary(binary, arch); err != nil {
		return nil, err
	}
	layer, err := newLayer(spec.Program, binary)
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err = mutate.Append(img, mutate.Addendum{Layer: layer, History: v1.History{
		Created: v1.Time{Time: time.Unix(0, 0).UTC()}, CreatedBy: "tulle images",
	}})
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", arch
	config.Created = v1.Time{Time: time.Unix(0, 0).UTC()}
	config.Config = v1.Config{
		User: user, Entrypoint: []string{"/" + spec.Program}, WorkingDir: "/",
		Env: []string{"PATH=/"}, Labels: spec.labels(),
	}
	return mutate.ConfigFile(img, config)
}

// labels are those of https://specs.opencontainers.org/image-spec/annotations/ that do not change with where and when
// the image is built, and the spec's own.
func (s Spec) labels() map[string]string {
	l := map[string]string{
		"org.opencontainers.image.title":    s.Program,
		"org.opencontainers.image.version":  tag(s.Ref),
		"org.opencontainers.image.licenses": "Apache-2.0",
		"org.opencontainers.image.source":   "https://github.com/tulle-mesh/tulle",
	}
	maps.Copy(l, s.Labels)
	return l
}

// checkBinary fails unless the file is a static Linux binary for the architecture: there is nothing else in the image.
func checkBinary(file, arch string) error {
	want, ok := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[arch]
	if !ok {
		return errors.New("not an architecture that images are made for")
	}
	f, err := elf.Open(file)
	if err != nil {
		return fmt.Errorf("read binary %s: %w", file, err)
	}
	defer f.Close()
	if f.Machine != want {
		return fmt.Errorf("binary %s is for %s", file, f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("binary %s is linked dynamically; build it with CGO_ENABLED=0", file)
		}
	}
	return nil
}
