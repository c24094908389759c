// Command mkimages writes the mesh's container images: one OCI archive with all of them, and a list of their digests.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/tulle-mesh/tulle/internal/images"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "mkimages:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	f := flag.NewFlagSet("mkimages", flag.ContinueOnError)
	repository := f.String("repository", "docker.io/tullemesh", "what precedes the images' names")
	version := f.String("version", "dev", "the images' tag and version label")
	revision := f.String("revision", "", "the commit that the binaries were built from")
	binaries := f.String("binaries", "dist/linux", "folder with a folder of binaries for each architecture")
	out := f.String("out", "dist/images", "folder to write to")
	if err := f.Parse(args); err != nil {
		return err
	}
	var built []images.Image
	for _, program := range []string{"tulle-controller", "tulle-proxy"} {
		img, err := images.Build(images.Spec{
			Ref: *repository + "/" + program + ":" + *version, Program: program,
			Binaries: map[string]string{
				"amd64": filepath.Join(*binaries, "amd64", program), "arm64": filepath.Join(*binaries, "arm64", program),
			},
			Labels: labels(program, *version, *revision),
		})
		if err != nil {
			return err
		}
		built = append(built, img)
	}
	return write(*out, built)
}

func labels(program, version, revision string) map[string]string {
	l := map[string]string{
		"org.opencontainers.image.title":    program,
		"org.opencontainers.image.version":  version,
		"org.opencontainers.image.licenses": "Apache-2.0",
		"org.opencontainers.image.source":   "https://github.com/tulle-mesh/tulle",
	}
	if revision != "" {
		l["org.opencontainers.image.revision"] = revision
	}
	return l
}

// write writes the archive of all images and the file of their digests.
func write(dir string, built []images.Image) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	file := filepath.Join(dir, "tulle-images.tar")
	f, err := os.Create(file + ".part")
	if err != nil {
		return err
	}
	if err := errors.Join(images.Save(f, built...), f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return err
	}
	var list strings.Builder
	for _, img := range built {
		digest, err := img.Digest()
		if err != nil {
			return err
		}
		fmt.Fprintf(&list, "%s  %s\n", digest, img.Ref)
	}
	fmt.Printf("%s\n%s", file, list.String())
	return os.WriteFile(filepath.Join(dir, "digests.txt"), []byte(list.String()), 0o644)
}
