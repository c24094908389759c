#!/usr/bin/env bash
# Runs the tests that need Traefik itself: its decoder and rule parser over all renderings, and stock Traefik beside
# `tulle run`. Stock Traefik v2 is built once per version and kept outside the tree, which takes a quarter of an hour of
# one core. v3 takes half as long and is asked one thing only, so it is built if TULLE_TRAEFIK_V3 is set, and used if it
# is there.
# usage: traefik.sh [FLAG OF GO TEST ...]
set -euo pipefail
cd "$(dirname "$0")/.."
TULLE='' TRAEFIK_V2='' TRAEFIK_V3=''
if [ "$(uname -s)" = Linux ]; then
	TULLE=$PWD/bin/tulle
	go build -trimpath -o "$TULLE" ./cmd/tulle
	TRAEFIK_V2=$(integration/stock-traefik.sh v2)
	only=--if-there
	[ -z "${TULLE_TRAEFIK_V3:-}" ] || only=
	TRAEFIK_V3=$(integration/stock-traefik.sh v3 $only)
	[ -n "$TRAEFIK_V3" ] || echo "Traefik v3 SKIPPED: TULLE_TRAEFIK_V3=1 builds it"
else
	echo "stock Traefik SKIPPED: its tests need the whole of 127.0.0.0/8" # the decoder's tests don't
fi
export TULLE TRAEFIK_V2 TRAEFIK_V3
cd integration/traefik
go test -count=1 "$@" .
