#!/usr/bin/env bash
# All tests: the node's core under sanitizers, a short fuzz of every parser, then pytest, whose summary is the last line.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
quiet() { # only what fails is worth reading
    "$@" >build/quiet.log 2>&1 || { cat build/quiet.log; exit 1; }
}
mkdir -p build
quiet cmake -S node_firmware --preset host-asan
quiet ninja -C build/host-asan
ctest --test-dir build/host-asan --output-on-failure --no-tests=error
grep -ah '^ota[.]' build/host-asan/Testing/Temporary/LastTest.log # how often the power was cut in an update
scripts/fuzz.sh "${FUZZ_S:-10}"
exec pytest "$@"
