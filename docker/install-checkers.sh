#!/bin/sh
# Installs what checks the shell scripts, the alerts, the API's description and the dependencies, where it is missing: shellcheck,
# promtool, npm and cargo-deny (built from source: two to four minutes). promtool is taken out of Debian's package `prometheus`: installing that would also start a server on
# this machine.
set -eu

cargo_deny=0.20.2

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "$@"
    exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

# Standard input is closed off: a package's script must not eat the caller's, nor wait for it.
apt() { as_root env DEBIAN_FRONTEND=noninteractive apt-get "$@" </dev/null >&2; }

install_promtool() {
    directory=$(mktemp -d /tmp/fleetgate-promtool.XXXXXX)
    trap 'rm -rf "$directory"' EXIT
    trap 'exit 1' HUP INT TERM
    # apt downloads as a user of its own.
    chmod 777 "$directory"
    (cd "$directory" && apt-get download -q prometheus </dev/null >&2)
    dpkg-deb --extract "$directory"/prometheus_*.deb "$directory/package"
    as_root install -m 755 "$directory/package/usr/bin/promtool" /usr/local/bin/promtool
    promtool --version >&2
}

missing=
has shellcheck || missing=shellcheck
has promtool || missing="${missing:+$missing }promtool"
has npm || missing="${missing:+$missing }npm"
if [ -n "$missing" ]; then
    if ! has apt-get || ! has dpkg-deb; then
        fail "Missing: $missing. Install shellcheck, https://www.shellcheck.net/, promtool, which is part of" \
            'Prometheus, https://prometheus.io/download/, and Node.js with npm, https://nodejs.org/.'
    fi
    as_root true 2>/dev/null ||
        fail "Missing: $missing, and no right to install without a password. Type: sudo docker/install-checkers.sh" \
            'Then run this again without sudo.'
    say "Installing what is missing: $missing"
    apt update -q
    has shellcheck || apt install -y -q --no-install-recommends shellcheck
    has promtool || install_promtool
    has npm || apt install -y -q --no-install-recommends npm
fi

# Cargo also finds it where it installs programs.
if ! cargo deny --version >/dev/null 2>&1; then
    # sudo does not look where rustup puts a user's toolchain.
    if ! has cargo && [ -n "${SUDO_USER:-}" ]; then
        say 'Now run this again without sudo: cargo-deny is built by your own Rust toolchain, which root does not see.'
        exit 0
    fi
    has cargo || fail 'cargo-deny is built by the Rust toolchain, which is missing. Install it as https://rustup.rs says.'
    say 'Installing what is missing: cargo-deny'
    cargo install --locked "cargo-deny@$cargo_deny" </dev/null >&2
fi
