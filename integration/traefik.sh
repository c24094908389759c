#!/usr/bin/env bash
# Runs the tests that need Traefik itself: its decoder and rule parser over all renderings, and stock Traefik beside
# `tulle run`. Stock Traefik v2 is built once per version and kept outside the tree, which takes a few minutes of two
# cores. v3 takes as long and is asked one thing only, so it is built if TULLE_TRAEFIK_V3 is set, and used if it is there.
# usage: traefik.sh [FLAG OF GO TEST ...]
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${TULLE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tulle}
version() { sed -n "s/^.*github.com\/traefik\/traefik\/$1 \(v[^ ]*\).*/\1/p" "integration/traefik/stock/$1/go.mod" | head -1; }
stock() { integration/cached.sh "traefik-$(version "$1")" traefik "integration/traefik/stock/$1" "github.com/traefik/traefik/$1/cmd/traefik"; }
stock v2
[ -z "${TULLE_TRAEFIK_V3:-}" ] || stock v3
TRAEFIK_V2=$cache/traefik-$(version v2)/traefik
TRAEFIK_V3=$cache/traefik-$(version v3)/traefik
[ -x "$TRAEFIK_V3" ] || { TRAEFIK_V3=; echo "Traefik v3 SKIPPED: TULLE_TRAEFIK_V3=1 builds it"; }
if [ "$(uname -s)" = Linux ]; then
	TULLE=$PWD/bin/tulle
	go build -trimpath -o "$TULLE" ./cmd/tulle
else
	TULLE= TRAEFIK_V2= TRAEFIK_V3= # the whole of 127.0.0.0/8 is needed
	echo "stock Traefik SKIPPED: its tests need Linux's loopback"
fi
export TULLE TRAEFIK_V2 TRAEFIK_V3
cd integration/traefik
go test -count=1 "$@" .
