#!/usr/bin/env bash
# No kernel may spill registers: lists the kernels of the given objects that use local memory, by cuobjdump.
# check_kernels.sh TOOLS_FOLDER OBJECT... ; where the toolkit has no cuobjdump, its wheel from PyPI is unpacked in the folder.
set -euo pipefail
folder=$1
shift
tool=$(command -v cuobjdump || ls "${CUDA_HOME:-/usr/local/cuda}/bin/cuobjdump" "$folder/bin/cuobjdump" 2>/dev/null | head -n 1 || true)
if [ -z "$tool" ]; then
    if ! bash "$(dirname "$0")/cuda_toolkit.sh" "$folder" nvidia-cuda-cuobjdump; then
        echo "check_kernels.sh: SKIPPED, there is no cuobjdump and its wheel could not be fetched"
        exit 0
    fi
    tool=$folder/bin/cuobjdump
fi
for object in "$@"; do "$tool" --dump-resource-usage "$object"; done | awk '
    /^arch = / { arch = $3 }
    /Function / { name = $2 }
    /REG:/ {
        kernels++
        for (i = 1; i <= NF; i++) {
            split($i, part, ":")
            if ((part[1] == "STACK" || part[1] == "LOCAL") && part[2] > 0) {
                print arch ": " name " " part[1] " " part[2] " bytes"
                bad++
            }
        }
    }
    END {
        print kernels + 0 " kernels, " bad + 0 " of them with local memory"
        exit (kernels == 0 || bad > 0)
    }'
