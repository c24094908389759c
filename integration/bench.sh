#!/usr/bin/env bash
# Compares the data plane with nginx, HAProxy and stock Traefik; arguments go to integration/bench. As root it installs
# what is missing from Debian's packages; what can't be had is left out of the comparison.
set -euo pipefail
cd "$(dirname "$0")/.."
missing=()
command -v nginx >/dev/null || missing+=(nginx-light)
[ -e /usr/lib/nginx/modules/ngx_stream_module.so ] || missing+=(libnginx-mod-stream)
command -v haproxy >/dev/null || missing+=(haproxy)
if [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	install() { DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null; }
	install || { apt-get update -q >/dev/null && install; }
fi
traefik=$(integration/stock-traefik.sh v2)
exec go run ./integration/bench -traefik "$traefik" "$@"
