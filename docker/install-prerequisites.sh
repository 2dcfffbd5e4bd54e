#!/bin/sh
# Installs what building and running Fleetgate needs beside the Rust toolchain: a C compiler, make and
# PostgreSQL's server programs; with --for-tests also PgBouncer, which tests put in front of PostgreSQL, and mosquitto_passwd and
# htpasswd, whose files tests import; with --for-fuzz also a C++ compiler, which libFuzzer is built with.
# Does nothing where they are there. Where it may not install, it names the commands to type and fails.
set -eu

oldest=15
pgdg=/usr/share/postgresql-common/pgdg/apt.postgresql.org.sh

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "$@"
    exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

# Does this directory hold a PostgreSQL server that is new enough?
is_server() {
    [ -x "$1/postgres" ] || return 1
    major=$("$1/postgres" --version | sed -n 's/^postgres (PostgreSQL) \([0-9]*\).*/\1/p')
    [ "${major:-0}" -ge "$oldest" ] || return 1
    # A link such as /usr/local/bin/postgres may stand alone; initdb is beside the real file.
    [ -x "$(dirname "$(readlink -f "$1/postgres")")/initdb" ]
}

# The same places that fleetgate itself looks into (src/embedded/binaries.rs).
has_postgres() {
    if [ -n "${FLEETGATE_PG_BIN:-}" ]; then
        is_server "$FLEETGATE_PG_BIN" && return
        fail "FLEETGATE_PG_BIN=$FLEETGATE_PG_BIN holds no PostgreSQL $oldest or newer: correct or unset it."
    fi
    found=$(command -v postgres || true)
    if [ -n "$found" ] && is_server "$(dirname "$found")"; then return; fi
    for directory in /usr/lib/postgresql/*/bin; do
        if is_server "$directory"; then return; fi
    done
    return 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

# May this user install packages without being asked anything?
may_install() {
    has apt-get || return 1
    [ "$(id -u)" -eq 0 ] || { has sudo && sudo -n true 2>/dev/null; }
}

# Standard input is closed off: a package's script must not eat the caller's, nor wait for it.
apt() { as_root env DEBIAN_FRONTEND=noninteractive apt-get "$@" </dev/null >&2; }

install() { apt install -y -q --no-install-recommends "$@"; }

# The newest server among the distribution's packages, e.g. 17.
packaged_postgres() {
    apt-cache pkgnames postgresql- | sed -n 's/^postgresql-\([0-9][0-9]*\)$/\1/p' | sort -n | tail -n 1
}

# Debian's packages make and start a cluster of their own for every new server. Nobody asked for one
# here, so its making is switched off while the package installs (see createcluster.conf).
install_postgres() {
    install postgresql-common
    without_cluster=/etc/postgresql-common/createcluster.d/fleetgate.conf
    trap 'as_root rm -f "$without_cluster"' EXIT
    trap 'exit 1' HUP INT TERM
    as_root mkdir -p "$(dirname "$without_cluster")"
    echo 'create_main_cluster = false' | as_root tee "$without_cluster" >/dev/null
    install "postgresql-$1"
}

too_old() {
    fail "This system's packages hold PostgreSQL ${1:-(none)}, and Fleetgate needs $oldest or newer." \
        "The PostgreSQL project's own packages have it:" "
    sudo apt-get install -y postgresql-common ca-certificates
    sudo $pgdg -y
    sudo apt-get install -y --no-install-recommends postgresql-17" "
Then run this again."
}

# Debian's packages start PgBouncer and mosquitto as services. Tests run their own or none, so they stay off, unless the
# system has a policy of its own for services.
install_without_service() {
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'as_root rm -f "$policy"' EXIT
        trap 'exit 1' HUP INT TERM
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
        install "$@"
        as_root rm -f "$policy"
        trap - EXIT
    else
        install "$@"
    fi
    for service in pgbouncer mosquitto; do
        case " $* " in *" $service "*) as_root systemctl disable "$service" >/dev/null 2>&1 || true ;; esac
    done
}

missing=
{ has cc && has ld; } || missing='gcc libc6-dev'
has make || missing="${missing:+$missing }make"
if [ "${1:-}" = --for-fuzz ]; then
    has c++ || missing="${missing:+$missing }g++"
fi
postgres_missing=
has_postgres || postgres_missing=postgresql
tools_missing=
if [ "${1:-}" = --for-tests ]; then
    # /usr/sbin is not in everybody's PATH.
    has pgbouncer || [ -x /usr/sbin/pgbouncer ] || tools_missing=pgbouncer
    has mosquitto_passwd || tools_missing="${tools_missing:+$tools_missing }mosquitto"
    has htpasswd || tools_missing="${tools_missing:+$tools_missing }apache2-utils"
fi
# shellcheck disable=SC2086,SC2116 # one word a package, one space between them
wanted=$(echo $missing $postgres_missing $tools_missing)
[ -n "$wanted" ] || exit 0

if ! has apt-get; then
    fail "Missing: $wanted. Install it, PostgreSQL in version $oldest or newer with its server."
fi
if ! may_install; then
    # Typing the lines below would end here again where the packages are known to be too old.
    packaged=
    [ -z "$postgres_missing" ] || packaged=$(packaged_postgres)
    [ "${packaged:-$oldest}" -ge "$oldest" ] || too_old "$packaged"
    fail "Missing packages, and no right to install them without a password. Type:" "
    sudo apt-get update
    sudo apt-get install -y --no-install-recommends $wanted" "
Then run this again."
fi

say "Installing what is missing: $wanted"
apt update -q
# shellcheck disable=SC2086 # one word a package
[ -z "$missing" ] || install $missing
# shellcheck disable=SC2086 # one word a package
[ -z "$tools_missing" ] || install_without_service $tools_missing
[ -n "$postgres_missing" ] || exit 0
version=$(packaged_postgres)
[ "${version:-0}" -ge "$oldest" ] || too_old "$version"
install_postgres "$version"
has_postgres || fail "postgresql-$version is installed, but /usr/lib/postgresql/*/bin holds no PostgreSQL $oldest."
