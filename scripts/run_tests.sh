#!/usr/bin/env bash
# Runs Criterion test programs and sums up what they report: run_tests.sh PROGRAM...
# Exit status 1 when a test failed or a program ended without its summary.
set -u
passed=0 failed=0 broken=()
for program in "$@"; do
    log=$(mktemp)
    status=0
    "$program" --timeout 300 --jobs 1 >"$log" 2>&1 || status=$?
    summary=$(grep -oE 'Tested: [0-9]+ \| .*' "$log" | sed 's/\x1b\[[0-9;]*m//g' | tail -n 1)
    tested=$(sed -nE 's/^Tested: ([0-9]+) .*/\1/p' <<<"$summary")
    good=$(sed -nE 's/.*Passing: ([0-9]+) .*/\1/p' <<<"$summary")
    if [ -z "$tested" ]; then
        broken+=("$program (exit status $status, no summary)")
        failed=$((failed + 1))
        cat "$log"
    else
        passed=$((passed + good))
        failed=$((failed + tested - good))
        if [ "$status" -ne 0 ] || [ "$tested" -ne "$good" ]; then
            broken+=("$program ($good of $tested passed)")
            cat "$log"
        fi
        grep -E 'SKIPPED' "$log" | sed "s|^|$program: |"
    fi
    printf '%-60s %s\n' "${program##*/tests/}" "${summary:-no summary}"
    rm -f "$log"
done
for name in "${broken[@]}"; do echo "FAILED: $name"; done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "${#broken[@]}" -eq 0 ]
