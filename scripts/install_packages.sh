#!/usr/bin/env bash
# Installs the Debian/Ubuntu packages that building and testing need and that are missing; says nothing when all are there.
# install_packages.sh [EXTRA PACKAGE...]
set -euo pipefail

needed=(gcc make pkg-config libdnnl-dev libcriterion-dev libjpeg-dev libpng-dev libzip-dev libjansson-dev
    libyaml-dev nettle-dev gnuplot-nox "$@")
missing=()
for package in "${needed[@]}"; do
    # A virtual or renamed package (libjpeg-dev) counts when a package that provides it is installed.
    if ! dpkg-query -W -f '${Status} ${Provides}\n' "$package" 2>/dev/null | grep -q '^install ok installed'; then
        missing+=("$package")
    fi
done
[ "${#missing[@]}" -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "install_packages: not root and no sudo (install: ${missing[*]})" >&2; exit 1; }
    as_root=(sudo)
fi
echo "installing ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
if ! { "${as_root[@]}" apt-get update && "${as_root[@]}" apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "install_packages: apt-get failed (see above)" >&2
    exit 1
fi
