package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/images"
	"github.com/tulle-mesh/tulle/internal/install"
	"github.com/tulle-mesh/tulle/internal/version"
)

const imagesArchive = "tulle-images.tar"

func newImages() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "images",
		Short: "Bring the mesh's container images to registries and to clusters without one",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(newImagesSave(), newImagesPush())
	return cmd
}

type saveOptions struct{ binaries, repository, tag, file string }

func newImagesSave() *cobra.Command {
	o := &saveOptions{}
	cmd := &cobra.Command{
		Use:   "save",
		Short: "Write the images as one archive, from the mesh's programs for Linux",
		Long: `Write the images as one OCI archive, from the mesh's programs for Linux. No container engine is needed.

The folder of binaries has a folder for each architecture: amd64/tulle-controller, amd64/tulle-proxy and so on. Nodes load
the archive with "ctr --namespace k8s.io images import".`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.OutOrStdout()) },
	}
	f := cmd.Flags()
	f.StringVar(&o.binaries, "binaries", "dist/linux", "`folder` with a folder of binaries for each architecture")
	f.StringVar(&o.repository, "repository", "docker.io/tullemesh", "what precedes the images' names")
	f.StringVar(&o.tag, "tag", "", "the images' tag (default the version of this command)")
	f.StringVarP(&o.file, "file", "f", imagesArchive, "`file` to write")
	return cmd
}

func (o *saveOptions) run(out io.Writer) error {
	tag := o.tag
	if tag == "" {
		tag = strings.ReplaceAll(strings.TrimPrefix(version.Version, "v"), "+", "-")
	}
	var built []images.Image
	for _, program := range []string{"tulle-controller", "tulle-proxy"} {
		found, err := binariesOf(o.binaries, program)
		if err != nil {
			return err
		}
		img, err := images.Build(images.Spec{Ref: o.repository + "/" + program + ":" + tag, Program: program, Binaries: found})
		if err != nil {
			return install.WithNext(err, "give --binaries a folder of static Linux binaries, and --repository and --tag a valid name")
		}
		built = append(built, img)
	}
	if err := writeFile(o.file, func(w io.Writer) error { return images.Save(w, built...) }); err != nil {
		return err
	}
	for _, img := range built {
		digest, err := img.Digest()
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s  %s\n", digest, img.Ref)
	}
	return nil
}

// binariesOf returns the files of a program by architecture.
func binariesOf(dir, program string) (map[string]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*", program))
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("no binaries of %s in %s", program, dir)
	}
	if err != nil {
		return nil, install.WithNext(err, "give --binaries a folder that has amd64/%s or arm64/%s", program, program)
	}
	out := map[string]string{}
	for _, f := range files {
		out[filepath.Base(filepath.Dir(f))] = f
	}
	return out, nil
}

type pushOptions struct {
	file     string
	insecure bool
}

func newImagesPush() *cobra.Command {
	o := &pushOptions{}
	cmd := &cobra.Command{
		Use:   "push REGISTRY",
		Short: "Push the images of an archive to a registry, and print the values that use them",
		Long: `Push the images of an archive to a registry, for all their architectures, and print the values that make the mesh use
them. Credentials are those of "docker login".`,
		Example: `  tulle images push registry.example.com/mesh > images.yaml
  tulle install -f images.yaml`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args[0]) },
	}
	cmd.Flags().StringVarP(&o.file, "file", "f", imagesArchive, "archive `file` of the images")
	cmd.Flags().BoolVar(&o.insecure, "insecure", false, "allow a registry without TLS")
	return cmd
}

func (o *pushOptions) run(cmd *cobra.Command, registry string) (err error) {
	archive, err := images.Open(o.file)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return install.WithNext(err, "name the archive of the release with --file, or make it with `tulle images save`")
		}
		return install.WithNext(err, "get the archive of the release again, or make it with `tulle images save`")
	}
	defer func() { err = errors.Join(err, archive.Close()) }()
	for _, img := range archive.Images {
		pushed, err := images.Push(cmd.Context(), img, images.PushOptions{Registry: registry, Insecure: o.insecure})
		if err != nil {
			return install.WithNext(err, "log in to the registry (`docker login`), check its name, or allow one without TLS by --insecure")
		}
		repository, digest, _ := strings.Cut(pushed, "@")
		_, part, _ := strings.Cut(filepath.Base(repository), "tulle-")
		if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s:\n  image:\n    repository: %s\n    digest: %s\n", part, repository, digest); err != nil {
			return err
		}
	}
	return nil
}
