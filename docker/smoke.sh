#!/bin/sh
# Does the bus work? Tries it with a real MQTT client on a stack that is up (docker compose up -d --wait).
# Adds a device, a service and a capability of its own, and removes them in the end. Exit code: 0 when every step passed.
#
#   docker/smoke.sh
#
# SMOKE_CLIENT_IMAGE  image with mosquitto_pub and mosquitto_sub (default eclipse-mosquitto:2.0.22)
# SMOKE_TLS_HOST      name of EMQX on labnet that its certificate holds (default emqx)
# SMOKE_PATIENCE      seconds to wait for something to arrive (default 20)
# Most functions are called by `step` and `eventually`, which shellcheck doesn't see.
# shellcheck disable=SC2317,SC2329
set -u

here=$(cd "$(dirname "$0")" && pwd)
client_image=${SMOKE_CLIENT_IMAGE:-eclipse-mosquitto:2.0.22}
tls_host=${SMOKE_TLS_HOST:-emqx}
patience=${SMOKE_PATIENCE:-20}
device=smoke-$$
service=smoke-service-$$
state_topic=smoke/$device/state
command_topic=smoke/$device/set
capability=smoke-switch-$$
switch_topic=smoke/$device/switch/set
failures=0

compose() { docker compose -f "$here/compose.yaml" "$@"; }

# -T: no terminal, so that output is as the command wrote it.
fleetgate() { compose exec -T fleetgate fleetgate "$@" </dev/null; }

# A client that ends by itself: client mosquitto_pub …
client() { docker run --rm --network labnet "$client_image" "$@" </dev/null; }

# A client that stays: listener NAME mosquitto_sub … ; what it hears is in its log. -t: into a pipe the client would
# write only when its buffer is full or it ends; to a terminal it writes each line at once.
listener() {
    name=$1
    shift
    docker run -d -t --name "$name" --network labnet "$client_image" "$@" >/dev/null
}

# What a listener has said so far. A terminal ends lines with CR LF.
said_by() { docker logs "$1" 2>&1 | tr -d '\r'; }

clean_up() {
    docker rm -f "$device" "$service" >/dev/null 2>&1
    fleetgate device remove "$device" --yes >/dev/null 2>&1
    fleetgate device remove "$service" --yes >/dev/null 2>&1
    fleetgate capability remove "$capability" >/dev/null 2>&1
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

passed() { printf 'pass  %s\n' "$1"; }

failed() {
    printf 'FAIL  %s\n' "$1"
    failures=$((failures + 1))
}

# step WHAT COMMAND…: passes when the command succeeds; shows its output when not.
step() {
    what=$1
    shift
    if output=$("$@" 2>&1); then
        passed "$what"
    else
        failed "$what"
        printf '%s\n' "$output" | sed 's/^/      /'
    fi
}

# Without this nothing else makes sense.
needed_step() {
    before=$failures
    step "$@"
    [ "$failures" -eq "$before" ] || finish
}

finish() {
    if [ "$failures" -eq 0 ]; then
        echo 'The bus works.'
        exit 0
    fi
    echo "$failures failed. See: docker compose logs, and docker compose exec fleetgate fleetgate doctor"
    exit 1
}

# eventually COMMAND…: tries it once a second, for as long as patience lasts.
eventually() {
    waited=0
    until "$@"; do
        waited=$((waited + 1))
        [ "$waited" -lt "$patience" ] || return 1
        sleep 1
    done
}

# says TEXT COMMAND…: the command's output contains the text, whatever its exit code.
says() {
    text=$1
    shift
    said=$("$@" 2>&1)
    case $said in
        *"$text"*) return 0 ;;
    esac
    printf 'no "%s" in: %s\n' "$text" "$said"
    return 1
}

is_up() {
    for part in postgres fleetgate emqx; do
        compose ps --status running --services | grep -qx "$part" || {
            echo "$part does not run; start the stack with: docker compose up -d --wait"
            return 1
        }
    done
}

add_device() {
    device_secret=$(fleetgate device add "$device" --kind sensor --generate \
        --state-topic "main=$state_topic" --command-topic "main=$command_topic") &&
        [ -n "$device_secret" ]
}

add_capability() {
    fleetgate capability add "$capability" &&
        fleetgate binding add "$device" "$capability" --command-topic "$switch_topic"
}

add_service() {
    service_secret=$(fleetgate device add "$service" --kind service --generate) &&
        [ -n "$service_secret" ] &&
        fleetgate grant add "$service" subscribe 'smoke/#' &&
        fleetgate grant add "$service" publish "$command_topic"
}

# As the device, over plain MQTT: as_device mosquitto_pub …
as_device() {
    program=$1
    shift
    client "$program" -V 5 -h emqx -p 1883 -i "$device" -u "$device" -P "$device_secret" "$@"
}

publish_over_tls() {
    compose exec -T emqx cat /opt/emqx/etc/fleetgate/tls/ca.pem </dev/null |
        docker run --rm -i --network labnet "$client_image" sh -c \
            'cat >/tmp/ca.pem && exec mosquitto_pub --cafile /tmp/ca.pem "$@"' mosquitto_pub \
            -V 5 -h "$tls_host" -p 8883 -i "$device" -u "$device" -P "$device_secret" \
            -q 1 -t "$state_topic" -m "$1"
}

is_refused_login() {
    ! client mosquitto_pub -V 5 -h emqx -p 1883 -i "$device" -u "$device" -P wrong \
        -q 1 -t "$state_topic" -m refused
}

# -d: it says when it has subscribed.
listen_as_service() {
    listener "$service" mosquitto_sub -V 5 -d -h emqx -p 1883 -i "$service:smoke" -u "$service" \
        -P "$service_secret" -q 1 -v -t 'smoke/#' &&
        eventually says 'Subscribed' said_by "$service"
}

listen_as_device() {
    listener "$device" mosquitto_sub -V 5 -d -h emqx -p 1883 -i "$device" -u "$device" \
        -P "$device_secret" -q 1 -v -C 2 -t "$command_topic" -t "$switch_topic" &&
        eventually says 'Subscribed' said_by "$device"
}

command_the_device() {
    client mosquitto_pub -V 5 -h emqx -p 1883 -i "$service:command" -u "$service" \
        -P "$service_secret" -q 1 -t "$command_topic" -m "$1"
}

# The device acknowledges it, and the registry knows that.
command_by_fleetgate() {
    says "$device: delivered" fleetgate command send "$capability" '"on"' --device "$device" \
        --expires "${patience}s" --wait
}

service_heard() { eventually says "$state_topic $1" said_by "$service"; }
device_heard() { eventually says "$1 $2" said_by "$device"; }
registry_shows() { eventually says "$1" fleetgate --json device show "$device"; }

# These keep what they set, so they run here and not in the shell that `step` makes for output.
needed_step 'the stack is up' is_up
if add_device; then passed 'a device is added'; else failed 'a device is added'; finish; fi
if add_service >/dev/null; then passed 'a service is added'; else failed 'a service is added'; finish; fi

step 'a capability is added and given to the device' add_capability
needed_step 'the service logs in and listens' listen_as_service
step 'the device logs in on 1883 and publishes its state' \
    as_device mosquitto_pub -q 1 -t "$state_topic" -m 21.25
step 'it arrives at the service' service_heard 21.25
step 'the registry shows it' registry_shows 21.25
step 'the device logs in on 8883 (TLS) and publishes its state' publish_over_tls 22.75
step 'it arrives at the service' service_heard 22.75
step 'the registry shows it' registry_shows 22.75
step 'a wrong password is refused' is_refused_login
step 'publishing elsewhere is refused' \
    says 'Not authorized' as_device mosquitto_pub -q 1 -t "smoke/another/state" -m 1
step 'subscribing elsewhere is refused' \
    says 'denied' as_device mosquitto_sub -W 5 -t 'smoke/#'
step 'the device listens for commands' listen_as_device
step 'the registry shows it online' registry_shows '"online": true'
step 'the service publishes to the device' command_the_device on
step 'it arrives at the device' device_heard "$command_topic" on
step 'Fleetgate sends a command, and the device acknowledges it' command_by_fleetgate
step 'it arrived at the device' device_heard "$switch_topic" '"on"'
step 'the device leaves, and the registry shows it offline' registry_shows '"online": false'
finish
