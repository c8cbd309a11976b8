#!/bin/sh
# Installs gatewayd on a Raspberry Pi or another Debian: install.sh [--prometheus] [PACKAGE.deb ...]
# Without a package: those beside this script that are made for this machine. A second run upgrades.
set -eu

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

prometheus=
if [ "${1:-}" = --prometheus ]; then
    prometheus=yes
    shift
fi
[ "$(id -u)" = 0 ] || fail "run it as root: sudo $0"
[ -r /etc/debian_version ] || fail "this is neither Debian nor Raspberry Pi OS"
arch=$(dpkg --print-architecture)
case "$arch" in
    amd64 | arm64) ;;
    *) fail "there are packages for arm64 and amd64, and this is $arch: install a 64-bit Raspberry Pi OS" ;;
esac
python=$(dpkg-query -W -f='${Version}' python3 2>/dev/null | sed 's/^\([0-9]*\.[0-9]*\).*/\1/')
case "$python" in
    3.11 | 3.13) ;;
    *) fail "gatewayd is made for Debian 12 and 13, and Python here is ${python:-missing}" ;;
esac

if [ $# = 0 ]; then
    here=$(cd "$(dirname "$0")" && pwd)
    for name in gatewayd gatewayd-speech; do
        for file in "$here/${name}"_*"+py${python}_${arch}.deb"; do
            [ ! -e "$file" ] || newest=$file
        done
        [ -z "${newest:-}" ] || set -- "$@" "$newest"
        newest=
    done
    [ $# -gt 0 ] || fail "no gatewayd_*+py${python}_${arch}.deb is beside this script: make it with \`make deb ARCH=$arch\`"
fi
for file in "$@"; do
    [ -r "$file" ] || fail "$file cannot be read"
done

# apt takes a file only with a slash in its name, and reads it as the user _apt, which cannot enter a home.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
cp "$@" "$work"
apt-get update -qq
apt-get install -y --no-install-recommends "$work"/*.deb ${prometheus:+prometheus}

if [ -n "$prometheus" ]; then
    # Its configuration belongs to the operator, so only one that is as it came is changed; what it was is kept beside it.
    settings=/etc/prometheus/prometheus.yml ours=/usr/share/gatewayd/prometheus
    came=$(dpkg-query -W -f='${Conffiles}\n' prometheus | sed -n "s|^ $settings \([0-9a-f]*\).*|\1|p")
    if [ "$came" = "$(md5sum <$settings | cut -d' ' -f1)" ]; then
        cp -p $settings $settings.before-gatewayd
        sed -n '/- job_name: gatewayd/,/targets:/p' $ours/prometheus.yml >"$work/job"
        sed -i -e "/^rule_files:/a\\  - $ours/rules/*.yml" -e "/^scrape_configs:/r $work/job" $settings
        promtool check config $settings >/dev/null
        [ ! -d /run/systemd/system ] || systemctl restart prometheus
    elif ! grep -q 'job_name: gatewayd' $settings; then
        echo "$settings is not as it came: add the job in $ours/prometheus.yml, and the rules in $ours/rules."
    fi
fi

address=$(hostname -I 2>/dev/null | cut -d' ' -f1)
cat <<END

gatewayd is installed. What comes next:

  sudo gatewayctl doctor                                 what is well, and what is not
  sudoedit /etc/gatewayd/gatewayd.toml                   [enrolment] broker = "${address:-ADDRESS}:8883": where nodes find this machine
  sudo systemctl restart gatewayd
  sudo gatewayctl node add kitchen-1                     a node's key, as a QR code and a file
  sudo gatewayctl token add me --scope operate           to log in to the page, http://127.0.0.1:8460
END
