#!/usr/bin/env bash
# Runs test programs in the order given, as many at a time as there are cores, and sums up what they report:
# run_tests.sh PROGRAM... Those in a folder "double" run on the CUDA backend, which the double of CUDA carries.
# Exit status 1 when a test failed or a program ended without its summary.
set -u
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
export results
# Two programs share the cores: threads that wait are not to spin.
export OMP_WAIT_POLICY=passive

run_one() {
    local program=$1 log status=0 summary tested good start=$SECONDS
    local name=${program##*/tests/} on
    on=${program%/tests/*} on=${on##*/}
    case $on in double | device) name="$name on a $on" ;; esac
    [ "$on" = double ] && export HEIRLOOM_TEST_DEVICE=cuda
    log=$results/${name//[\/ ]/.}
    "$program" --timeout 900 --jobs 1 >"$log.log" 2>&1 || status=$?
    summary=$(grep -oE 'Tested: [0-9]+ \| .*' "$log.log" | sed 's/\x1b\[[0-9;]*m//g' | tail -n 1)
    tested=$(sed -nE 's/^Tested: ([0-9]+) .*/\1/p' <<<"$summary")
    good=$(sed -nE 's/.*Passing: ([0-9]+) .*/\1/p' <<<"$summary")
    if [ -z "$tested" ]; then
        echo "$program (exit status $status, no summary)" >"$log.broken"
        echo "0 1" >"$log.count"
    else
        echo "$good $((tested - good))" >"$log.count"
        if [ "$status" -ne 0 ] || [ "$tested" -ne "$good" ]; then
            echo "$program ($good of $tested passed)" >"$log.broken"
        fi
    fi
    {
        [ -f "$log.broken" ] && cat "$log.log"
        grep -E 'SKIPPED' "$log.log" | sort -u | sed "s|^|$name: |"
        printf '%-50s %4d s  %s\n' "$name" $((SECONDS - start)) "${summary:-no summary}"
    } >"$log.text"
    cat "$log.text" # in one piece, so that programs do not mix their lines
}
export -f run_one

printf '%s\0' "$@" | xargs -0 -n 1 -P "$(nproc)" bash -c 'run_one "$0"'
cat "$results"/*.broken 2>/dev/null | sed 's/^/FAILED: /'
cat "$results"/*.count | awk -v programs=$# '
    { passed += $1; failed += $2; ran++ }
    END { print passed + 0 " passed, " failed + 0 " failed"; exit failed > 0 || ran != programs }' || exit 1
! compgen -G "$results/*.broken" >/dev/null
