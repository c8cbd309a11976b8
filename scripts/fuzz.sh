#!/usr/bin/env bash
# Fuzzes every parser of the node under sanitizers, and the engine with random graphs against TFLM: fuzz.sh SECONDS (for each target).
# Found inputs stay in build/fuzz.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:?usage: fuzz.sh SECONDS}
build=build/host-asan
mkdir -p build
[ -f $build/build.ninja ] || cmake -S node_firmware --preset host-asan >build/fuzz.log
ninja -C $build --quiet >build/fuzz.log || { cat build/fuzz.log; exit 1; }
export ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1
rm -rf build/fuzz/nn-seeds
.venv/bin/python tests/nn_campaign.py --write build/fuzz/nn-seeds
pids=()
for program in "$build"/tests/fuzz_*; do
    [ -x "$program" ] || continue
    name=$(basename "$program")
    mkdir -p "build/fuzz/$name" # libFuzzer keeps what it finds in the first folder; the others are seeds
    seeds=tests/vectors
    [ "${name#fuzz_nn}" = "$name" ] || seeds=build/fuzz/nn-seeds
    nice "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 \
        -artifact_prefix="build/fuzz/$name-" "build/fuzz/$name" "$seeds" >"build/fuzz/$name.log" 2>&1 &
    pids+=("$!:$name")
done
nice .venv/bin/python tests/nn_campaign.py --seconds "$seconds" >build/fuzz/graphs.log 2>&1 &
pids+=("$!:graphs")
failed=0
for entry in "${pids[@]}"; do
    name=${entry#*:}
    if wait "${entry%%:*}"; then
        echo "ok    $name: $(sed -n 's/^stat::number_of_executed_units: *//p' "build/fuzz/$name.log") inputs"
    else
        echo "FAIL  $name"
        tail -40 "build/fuzz/$name.log"
        failed=1
    fi
done
exit $failed
