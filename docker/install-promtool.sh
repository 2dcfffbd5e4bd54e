#!/bin/sh
# Installs promtool, which tests the alerts, where it is missing. It is taken out of Debian's package
# `prometheus`: installing that would also start a server on this machine.
set -eu

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "$@"
    exit 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

command -v promtool >/dev/null && exit 0
{ command -v apt-get && command -v dpkg-deb; } >/dev/null ||
    fail 'promtool is missing. Install it: it is part of Prometheus, https://prometheus.io/download/.'
as_root true 2>/dev/null ||
    fail 'promtool is missing, and there is no right to install it without a password. Type: sudo docker/install-promtool.sh'

directory=$(mktemp -d /tmp/fleetgate-promtool.XXXXXX)
trap 'rm -rf "$directory"' EXIT
trap 'exit 1' HUP INT TERM
# apt downloads as a user of its own.
chmod 777 "$directory"

say 'Installing promtool'
as_root apt-get update -q </dev/null >&2
(cd "$directory" && apt-get download -q prometheus </dev/null >&2)
dpkg-deb --extract "$directory"/prometheus_*.deb "$directory/package"
as_root install -m 755 "$directory/package/usr/bin/promtool" /usr/local/bin/promtool
promtool --version >&2
