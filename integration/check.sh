#!/usr/bin/env bash
# Fails if generated code differs from its source, or a module file is not tidy.
set -euo pipefail
cd "$(dirname "$0")/.."
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
integration/generate.sh "$tmp"
diff -u api/config/v1/config.pb.go "$tmp/config.pb.go" || { echo "api/config/v1: run make generate" >&2; exit 1; }
go mod tidy -diff || { echo "go.mod: run go mod tidy" >&2; exit 1; }
go mod verify >/dev/null
# Modules of their own that import this one need what it needs.
grep -l '^replace github.com/tulle-mesh/tulle ' integration/*/go.mod | while read -r file; do
	(cd "$(dirname "$file")" && go mod tidy -diff) || { echo "$file: run go mod tidy there" >&2; exit 1; }
done
