#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test: as users build it, and under the sanitizers.
# Where there is no CUDA toolkit, what the CUDA backend is built with is fetched into build/cuda (CUDA=0: not).
set -euo pipefail
cd "$(dirname "$0")/.."
jobs=$(nproc)

step() {
    echo "$1 ($((SECONDS / 60)) min)"
}

bash scripts/install_packages.sh clang-format git g++ binutils
if [ "${CUDA:-1}" != 0 ] && [ -z "${NVCC:-}" ] && ! command -v nvcc >/dev/null && [ ! -x /usr/local/cuda/bin/nvcc ]; then
    step "fetching the CUDA toolkit"
    bash scripts/install_packages.sh python3-pip
    if bash scripts/cuda_toolkit.sh build/cuda; then
        export NVCC=$PWD/build/cuda/bin/nvcc
    else
        echo "SKIPPED: there is no CUDA toolkit here and none could be fetched; the CUDA backend is neither built nor tested"
    fi
fi
step "checking style and layering"
make --no-print-directory lint
step "building (log: build/build.log)"
mkdir -p build
if ! make --no-print-directory -j"$jobs" all test-programs >build/build.log 2>&1; then
    tail -n 40 build/build.log
    echo "test.sh: the build failed (see above)" >&2
    exit 1
fi
make --no-print-directory check-kernels
step "running the tests"
make --no-print-directory test
step "running the tests under the address and undefined-behaviour sanitizers"
make --no-print-directory -j"$jobs" SANITIZE=address sanitize
step "running the tests of threads and kernels under the thread sanitizer"
make --no-print-directory -j"$jobs" SANITIZE=thread sanitize-threads
step "done"
