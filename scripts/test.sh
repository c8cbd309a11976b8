#!/usr/bin/env bash
# All tests: the node's core under sanitizers, a short fuzz of every parser, then pytest, whose summary is the last line.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
mkdir -p build
cmake -S node_firmware -B build/host-asan -G Ninja -DCMAKE_BUILD_TYPE=Debug -DNODE_SANITIZE=ON >build/cmake-asan.log || { cat build/cmake-asan.log; exit 1; }
ninja -C build/host-asan --quiet
ctest --test-dir build/host-asan --output-on-failure --no-tests=error
scripts/fuzz.sh "${FUZZ_S:-10}"
exec pytest "$@"
