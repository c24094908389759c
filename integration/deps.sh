#!/usr/bin/env bash
# Installs the distribution's packages that the embedded cluster needs, if any is missing (Debian, Ubuntu; root).
set -euo pipefail
packages=(containerd runc containernetworking-plugins iptables nftables iproute2 busybox-static ipset conntrack procps util-linux)
missing=()
for p in "${packages[@]}"; do
	dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q '^install ok installed' || missing+=("$p")
done
[ ${#missing[@]} -eq 0 ] && exit 0
echo "installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
