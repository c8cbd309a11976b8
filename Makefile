# One task file: the same targets on a laptop and in CI.
.PHONY: setup demo test check bench fuzz size clean
PY := .venv/bin/python

setup: ; @scripts/setup.sh
build/host/libnode.so: setup ; @cmake -S node_firmware -B build/host -G Ninja -DCMAKE_BUILD_TYPE=Release >/dev/null && ninja -C build/host

clean: ; rm -rf build .venv
