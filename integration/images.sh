#!/usr/bin/env bash
# Builds the controller and the proxy for amd64 and arm64 and writes their images: dist/images/tulle-images.tar, an OCI
# archive of both, and digests.txt. Equal sources and version give equal digests.
# usage: images.sh VERSION
set -euo pipefail
cd "$(dirname "$0")/.."
ldflags="-s -w -X github.com/tulle-mesh/tulle/internal/version.Version=$1"
for arch in amd64 arm64; do
	mkdir -p "dist/linux/$arch"
	CGO_ENABLED=0 GOOS=linux GOARCH=$arch go build -trimpath -buildvcs=false -ldflags "$ldflags" \
		-o "dist/linux/$arch/" ./cmd/tulle-controller ./cmd/tulle-proxy
done
mkdir -p dist/images bin
CGO_ENABLED=0 go build -trimpath -ldflags "$ldflags" -o bin/tulle ./cmd/tulle
bin/tulle images save --binaries dist/linux --file dist/images/tulle-images.tar | tee dist/images/digests.txt
