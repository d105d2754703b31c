#!/usr/bin/env bash
# Runs fuzz programs one after another: fuzz.sh SECONDS FOLDER PROGRAM...
# Each begins with a corpus made from the fixtures, kept in FOLDER/NAME between runs. An input that crashes is left in
# FOLDER/NAME-crash-*; put it into tests/fuzz/crashers/NAME, which is always run first.
set -euo pipefail
seconds=$1 folder=$2
shift 2
status=0
for program in "$@"; do
    name=$(basename "$program")
    name=${name#fuzz_}
    corpus=$folder/$name
    mkdir -p "$corpus"
    case $name in
    safetensors) cp -n tests/fixtures/weights/*.safetensors "$corpus" ;;
    pytorch) cp -n tests/fixtures/weights/*.pt tests/fixtures/weights/*.pth "$corpus" ;;
    jpeg) cp -n tests/fixtures/images/*.jpg "$corpus" ;;
    onnx) cp -n tests/fixtures/onnx/*.onnx "$corpus" ;;
    png) cp -n tests/fixtures/images/*.png "$corpus" ;;
    csv) printf 'path,label\na.png,cat\n"b ""c"".jpg",dog\n' >"$corpus/table" ;;
    yaml)
        printf 'model: resnet18\nlr: 0.1\nflag: true\nquoted: "x\\ty"\nlist: [1, 2.5, a]\ngrid: {a: 1, b: [2]}\n' >"$corpus/flat"
        printf -- '---\n- a\n- &x b\n- *x\n...\n---\n!!str c: |\n  block\n' >"$corpus/odd"
        ;;
    esac
    crashers=tests/fuzz/crashers/$name
    if [[ $("$program" -help=1 2>&1 || true) == *max_total_time* ]]; then
        if [ -d "$crashers" ] && ! "$program" "$crashers"/* >"$folder/$name.log" 2>&1; then
            echo "$name: an input of $crashers crashes again, see $folder/$name.log"
            status=1
            continue
        fi
        echo "fuzzing $name for $seconds s"
        "$program" -max_total_time="$seconds" -rss_limit_mb=2048 -malloc_limit_mb=1024 -timeout=10 -max_len=16384 \
            -artifact_prefix="$folder/$name-" "$corpus" >"$folder/$name.log" 2>&1 || status=1
        grep -E '^Done|ERROR|SUMMARY|Test unit written' "$folder/$name.log" || true
    else
        echo "replaying $name (this compiler has no libFuzzer)"
        inputs=("$corpus")
        [ ! -d "$crashers" ] || inputs+=("$crashers")
        find "${inputs[@]}" -type f -print0 | xargs -0 -r "$program" >"$folder/$name.log" || status=1
    fi
done
exit $status
