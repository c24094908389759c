#!/usr/bin/env bash
# Runs the suites on a real cluster: the one that KUBECONFIG names (TULLE_E2E_LOAD_IMAGE says how to load an image
# archive into it, e.g. "kind load image-archive {archive}"), else the embedded one, which needs Linux and root.
set -euo pipefail
cd "$(dirname "$0")/.."
skip() {
	echo "e2e SKIPPED: $1"
	[ -z "${TULLE_E2E_REQUIRED:-}" ] || { echo "e2e is required here" >&2; exit 1; }
	exit 0
}
if [ -z "${KUBECONFIG:-}" ]; then
	[ "$(uname -s)" = Linux ] || skip "the embedded cluster needs Linux; set KUBECONFIG to use another one"
	[ "$(id -u)" = 0 ] || skip "the embedded cluster needs root; set KUBECONFIG to use another one"
	command -v dpkg-query >/dev/null || skip "the embedded cluster takes its parts from Debian's packages; set KUBECONFIG to use another one"
	integration/deps.sh
fi
TULLE_E2E=1 go test -count=1 -p 1 -timeout 60m "${@:--v}" ./integration/cluster/... ./integration/e2e/...
