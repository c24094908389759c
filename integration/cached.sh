#!/usr/bin/env bash
# Builds a Go command once per version, outside the tree; with CACHED_CGO=1 with the C that it wants.
# usage: cached.sh NAME-VERSION COMMAND MODULE-DIR PACKAGE
set -euo pipefail
cd "$(dirname "$0")/.."
dir=${TULLE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tulle}/$1
mkdir -p "$dir"
exec 9>"$dir/.lock"
flock 9
[ -x "$dir/$2" ] && exit 0
echo "building $2 of $1 (once)" >&2
(cd "$3" && CGO_ENABLED=${CACHED_CGO:-0} nice go build -trimpath -ldflags '-s -w' -o "$dir/.$2.new" "$4")
mv "$dir/.$2.new" "$dir/$2"
