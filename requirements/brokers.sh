#!/usr/bin/env bash
# Installs the brokers that the tests want to have and no Python package brings: RabbitMQ, from
# Debian's packages, where that may be done. Started by `make test`. The system's service is not
# started, now or by the installation: each test run starts a private node and ends it.
# Without a broker its tests say that they are skipped and why, and fail where CI=true.
set -euo pipefail

say() { printf 'brokers: %s\n' "$*" >&2; }

if [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || command -v rabbitmq-server >/dev/null; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    say "there is no rabbitmq-server, and only root with apt-get can be helped; its tests are skipped"
    exit 0
fi

policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod +x "$policy"
fi
say "installing the system package rabbitmq-server"
log=$(mktemp)
apt() { DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 "$@"; }
if { apt update && apt install -y rabbitmq-server; } >"$log" 2>&1; then
    rm -f "$log"
else
    tail -n 20 "$log" >&2
    say "apt-get could not install rabbitmq-server (all it said: $log); its tests are skipped"
fi
