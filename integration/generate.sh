#!/usr/bin/env bash
# Regenerates api/config/v1 with Debian's protoc and the pinned protoc-gen-go. usage: generate.sh [OUTPUT-DIR]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-api/config/v1}
command -v protoc >/dev/null || {
	[ "$(id -u)" = 0 ] || { echo "protoc is missing: install the package protobuf-compiler" >&2; exit 1; }
	DEBIAN_FRONTEND=noninteractive; export DEBIAN_FRONTEND
	apt-get update -qq && apt-get install -y -qq --no-install-recommends protobuf-compiler >/dev/null
}
version=$(sed -n 's/^.*google.golang.org\/protobuf \(v[^ ]*\).*/\1/p' integration/tools/go.mod)
integration/cached.sh "protoc-gen-go-$version" protoc-gen-go integration/tools google.golang.org/protobuf/cmd/protoc-gen-go
plugin=${TULLE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tulle}/protoc-gen-go-$version/protoc-gen-go
protoc --plugin="$plugin" --proto_path=api/config/v1 --go_out="$out" --go_opt=paths=source_relative config.proto
# The line that names protoc's own version differs between distributions and says nothing about the code.
sed -i '/^\/\/ \tprotoc  /d' "$out/config.pb.go"
