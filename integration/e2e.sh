#!/usr/bin/env bash
# Runs the suites on a real cluster. Usually that is the embedded one, which needs Linux and root. With KUBECONFIG and
# TULLE_E2E_LOAD_IMAGE set it is the one that KUBECONFIG names; the latter is the command that loads an image archive into
# it, e.g. "kind load image-archive {archive}". KUBECONFIG alone is not enough: nobody means their own cluster by it.
# usage: e2e.sh [FLAG OF GO TEST ...]
set -euo pipefail
cd "$(dirname "$0")/.."
skip() {
	echo "e2e SKIPPED: $1; or set KUBECONFIG and TULLE_E2E_LOAD_IMAGE to use another cluster"
	[ -z "${TULLE_E2E_REQUIRED:-}" ] || { echo "e2e is required here" >&2; exit 1; }
	exit 0
}
if [ -z "${KUBECONFIG:-}" ] || [ -z "${TULLE_E2E_LOAD_IMAGE:-}" ]; then
	[ -z "${KUBECONFIG:-}" ] || echo "e2e: the cluster of KUBECONFIG is left alone, as TULLE_E2E_LOAD_IMAGE is not set"
	unset KUBECONFIG
	[ "$(uname -s)" = Linux ] || skip "the embedded cluster needs Linux"
	[ "$(id -u)" = 0 ] || skip "the embedded cluster needs root"
	unshare --mount --net --pid --uts --ipc --fork true 2>/dev/null || skip "the embedded cluster needs a root who may make namespaces"
	command -v apt-get >/dev/null || skip "the embedded cluster takes its parts from Debian's packages"
fi
TULLE_E2E=1 go test -json -count=1 -p 1 -timeout 60m "$@" ./integration/cluster/... ./integration/e2e/... ./integration/readme/... |
	go run ./integration/cmd/outline
