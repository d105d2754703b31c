#!/usr/bin/env bash
# A virtual environment with PyTorch, torchvision, timm, peft and LyCORIS, for benchmarks and goldens; prints its Python. HEIRLOOM_PYTHON names
# one that is there already.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -n "${HEIRLOOM_PYTHON:-}" ]; then
    echo "$HEIRLOOM_PYTHON"
    exit 0
fi
folder=build/python
if [ ! -f "$folder/.complete" ]; then
    bash scripts/install_packages.sh python3 python3-venv python3-pip g++ >&2
    echo "installing PyTorch, torchvision, timm, peft and LyCORIS into $folder" >&2
    rm -rf "$folder"
    python3 -m venv "$folder"
    "$folder/bin/pip" install --quiet --disable-pip-version-check torch torchvision timm safetensors pillow numpy \
        onnx onnxruntime onnxscript peft lycoris-lora >&2
    touch "$folder/.complete"
fi
echo "$folder/bin/python"
