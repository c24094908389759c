#!/usr/bin/env bash
# Runs the tests that need SPIRE itself: its server and agents as the source of the proxies' SVIDs. They are built once per
# version and kept outside the tree, with C, as the server's database is SQLite; that takes 20 to 25 minutes of one core.
# usage: spire.sh [FLAG OF GO TEST ...]
set -euo pipefail
cd "$(dirname "$0")/.."
skip() {
	echo "SPIRE SKIPPED: $1"
	exit 0
}
[ "$(uname -s)" = Linux ] || skip "its tests need the whole of 127.0.0.0/8"
command -v "$(go env CC)" >/dev/null || skip "its server needs a C compiler"
name=spire-$(sed -n 's/^.*github.com\/spiffe\/spire \(v[^ ]*\).*/\1/p' integration/spire/go.mod | head -1)
for command in spire-server spire-agent; do
	CACHED_CGO=1 integration/cached.sh "$name" "$command" integration/spire "github.com/spiffe/spire/cmd/$command"
done
SPIRE=${TULLE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tulle}/$name go test -count=1 -run SPIRE "$@" ./internal/proxy/
