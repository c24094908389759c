#!/usr/bin/env bash
# Builds stock Traefik once per version, outside the tree, and prints where it is; with --if-there it builds nothing.
# usage: stock-traefik.sh v2|v3 [--if-there]
set -euo pipefail
cd "$(dirname "$0")/.."
version=$(sed -n "s/^.*github.com\/traefik\/traefik\/$1 \(v[^ ]*\).*/\1/p" "integration/traefik/stock/$1/go.mod" | head -1)
program=${TULLE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tulle}/traefik-$version/traefik
if [ "${2:-}" != --if-there ]; then
	integration/cached.sh "traefik-$version" traefik "integration/traefik/stock/$1" "github.com/traefik/traefik/$1/cmd/traefik" >&2
fi
[ ! -x "$program" ] || echo "$program"
