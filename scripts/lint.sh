#!/usr/bin/env bash
# Checks what a compiler does not: formatting, that includes point one way, that files stay short.
set -uo pipefail
cd "$(dirname "$0")/.."
bad=0

complain() {
    echo "lint: $*" >&2
    bad=1
}

# Without git's list of the project's files nothing would be checked, and all would seem well.
git ls-files >/dev/null || { complain "git does not list the project's files here"; exit 1; }

sources() {
    git ls-files --cached --others --exclude-standard -- "$@" | while read -r file; do [ -f "$file" ] && echo "$file"; done
}

if command -v clang-format >/dev/null; then
    unformatted=$(sources '*.c' '*.h' '*.cu' '*.cuh' '*.cpp' '*.hpp' | xargs clang-format --dry-run 2>&1 | sed -nE 's/^([^:]+):[0-9]+:.*/\1/p' | sort -u)
    for file in $unformatted; do complain "$file is not formatted (clang-format -i $file)"; done
else
    echo "lint: no clang-format here, formatting is not checked" >&2
fi

# What each layer may include, besides itself and the public headers. base and io serve everyone.
declare -A may=(
    [base]="" [io]="base" [backend]="base io" [graph]="backend base io" [models]="graph backend base io"
    [method]="graph backend base io" [data]="base io" [train]="method data models graph backend base io"
    [cli]="train method data models graph backend base io" [kernels]="base"
    [backend/cuda]="kernels backend base io"
)
for layer in "${!may[@]}"; do
    folder=host/$layer except=""
    [ -d "$layer" ] && folder=$layer
    [ "$layer" = backend ] && except=':!host/backend/cuda/*'
    while IFS=: read -r file line; do
        [ -z "$file" ] && continue
        target=$(sed -E 's/.*"([^/"]+)\/.*/\1/' <<<"$line")
        case " $layer ${may[$layer]} " in
        *" $target "*) ;;
        *) complain "$file includes $target/, which is above $layer/" ;;
        esac
    done < <(sources "$folder/*.c" "$folder/*.h" "$folder/*.cu" "$folder/*.cuh" ${except:+"$except"} | xargs -r grep -HoE '^#include "[^/"]+/[^"]*"' /dev/null)
done

for header in dnnl cudnn cublas cuda; do
    case $header in dnnl) home=host/backend/cpu/ ;; *) home=host/backend/cuda/ ;; esac
    while read -r file; do
        case $file in "$home"* | tests/*) ;; *) complain "$file includes $header outside $home" ;; esac
    done < <(sources 'host/*' 'include/*' 'models/*' | xargs grep -lE "#include <.*$header" 2>/dev/null)
done

while read -r lines file; do
    [ "$file" = total ] || [ "$lines" -le 600 ] || complain "$file has $lines lines (split it by subject)"
done < <(sources '*.c' '*.h' '*.cu' '*.cuh' '*.cpp' '*.hpp' '*.py' '*.sh' | xargs wc -l)

[ "$bad" -eq 0 ] && echo "lint: clean"
exit "$bad"
