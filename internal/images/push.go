package images

import (
	"context"
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// PushOptions say where and how images are pushed.
type PushOptions struct {
	// Registry is a registry's host, perhaps with a path: its images are named by that and the last part of their own
	// name. Empty = where their own name points.
	Registry string
	// Insecure allows plain HTTP. A registry on loopback needs no leave for that.
	Insecure bool
}

// Push pushes an image with all its platforms and returns the name it has there, with its digest. Credentials are those
// of `docker login` (~/.docker/config.json).
func Push(ctx context.Context, img Image, o PushOptions) (string, error) {
	target := img.Ref
	if o.Registry != "" {
		target = strings.TrimSuffix(o.Registry, "/") + "/" + img.Ref[strings.LastIndex(img.Ref, "/")+1:]
	}
	var opts []name.Option
	if o.Insecure {
		opts = append(opts, name.Insecure)
	}
	ref, err := name.NewTag(target, opts...)
	if err != nil {
		return "", fmt.Errorf("push image: %w", err)
	}
	if err := remote.WriteIndex(ref, img.index,
		remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
		return "", fmt.Errorf("push image %s: %w", target, err)
	}
	digest, err := img.Digest()
	if err != nil {
		return "", err
	}
	return ref.Context().Name() + "@" + digest, nil
}
