#!/usr/bin/env bash
# Runs every fuzz target for FUZZTIME (default 60s) each; fuzz.sh DIR... those of these folders, of whatever module.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- internal api cmd integration/traefik
grep -rlE '^func Fuzz[A-Z]' --include=*_test.go "$@" | sort -u | while read -r file; do
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file"); do
		(cd "$(dirname "$file")" && go test -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-60s}" .)
	done
done
