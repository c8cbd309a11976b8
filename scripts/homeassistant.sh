#!/usr/bin/env bash
# A Home Assistant for tests/test_homeassistant.py in build/homeassistant: a Debian of its own, whose Python is new enough, and the package
# without its web pages. Five minutes and 1.3 GB, so nobody gets it unasked; without it that test is skipped. As root, for chroot(8).
set -euo pipefail
cd "$(dirname "$0")/.."
version=2026.2.3 # the newest for Debian 13's Python
root=build/homeassistant
if [ "$(cat "$root/version" 2>/dev/null)" = "$version" ]; then
    exit 0
fi
command -v debootstrap >/dev/null || apt-get install -y -qq debootstrap
rm -rf "$root"
mkdir -p "$root"
# gcc: one of its packages has no wheel for this Python
debootstrap --variant=minbase --include=python3-venv,python3-dev,gcc,libc6-dev,ca-certificates trixie "$root"
cp /etc/resolv.conf "$root/etc/"
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
chroot "$root" python3 -m venv /ha
chroot "$root" /ha/bin/pip install -q "homeassistant==$version" paho-mqtt==2.1.0
echo "$version" >"$root/version"
