#!/usr/bin/env bash
# Runs every fuzz target for FUZZTIME (default 60s) each; fuzz.sh DIR... those of these folders.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- internal api cmd
grep -rlE '^func Fuzz[A-Z]' --include=*_test.go "$@" | sort -u | while read -r file; do
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file"); do
		go test -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-60s}" "./$(dirname "$file")"
	done
done
cd integration/traefik
go test -run '^$' -fuzz '^FuzzRule$' -fuzztime "${FUZZTIME:-60s}" .
