#!/usr/bin/env bash
# Everything that takes a CUDA device, in one command: builds for the card, runs the tests on it, compares losses and gradients
# with the CPU backend, trains the demo, runs the kernels under compute-sanitizer, and times training beside PyTorch. Writes
# gpu-report.md and gpu-report.json. Options: scripts/gpu_check.sh --help
set -euo pipefail
cd "$(dirname "$0")/.."
command -v python3 >/dev/null || bash scripts/install_packages.sh python3
bash scripts/install_packages.sh || echo "gpu_check: some packages are missing and cannot be installed here; going on" >&2
exec python3 scripts/gpu_check.py "$@"
