#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test: as users build it, and under the sanitizers.
set -euo pipefail
cd "$(dirname "$0")/.."
jobs=$(nproc)

bash scripts/install_packages.sh clang-format
echo "checking style and layering"
make --no-print-directory lint
echo "building (log: build/build.log)"
mkdir -p build
if ! make --no-print-directory -j"$jobs" all test-programs >build/build.log 2>&1; then
    tail -n 40 build/build.log
    echo "test.sh: the build failed (see above)" >&2
    exit 1
fi
echo "running the tests"
make --no-print-directory test
echo "running the tests under the address and undefined-behaviour sanitizers"
make --no-print-directory -j"$jobs" SANITIZE=address sanitize
echo "running the loader's tests under the thread sanitizer"
make --no-print-directory -j"$jobs" SANITIZE=thread sanitize-threads
