#!/usr/bin/env bash
# Makes .venv with everything that running, testing and checking need, at the versions and hashes
# of the locks. Started by `make setup`; quick when nothing has changed since the last time.
#
# Uses uv when it is on the PATH and pip when not; the index settings of either are respected.
# PYTHON=… names another interpreter than the first python3 that is new enough.
set -euo pipefail
cd "$(dirname "$0")/.."

inputs=(requirements/run.lock requirements/dev.lock pyproject.toml requirements/setup.sh)
stamp=.venv/ready
# The folder is part of the key: scripts in a virtual environment hold its path.
key=$(printf '%s\n' "$PWD" | cat - "${inputs[@]}" | sha256sum | cut -d' ' -f1)

if [ "$(cat "$stamp" 2>/dev/null)" = "$key" ] && .venv/bin/python -c '' 2>/dev/null; then
    exit 0
fi

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    die "no Python 3.11 or newer is on the PATH; install one, or name it: make setup PYTHON=…"
}

uv_works() { uv --version >/dev/null 2>&1; }

make_venv() {
    if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        "$python" -m venv --clear .venv
    elif uv_works; then
        uv venv --quiet --seed --clear --python "$python" .venv
    elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing the system package python3-venv"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
        "$python" -m venv --clear .venv
    else
        die "Python at $python cannot make virtual environments; install python3-venv or uv"
    fi
}

# uv brings certificates of its own; the system's know about a company's proxy as well. Two names,
# because it was renamed.
export UV_NATIVE_TLS=${UV_NATIVE_TLS:-true} UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-true}

pip_install() { .venv/bin/python -m pip install --quiet --disable-pip-version-check "$@"; }

install_locked() {
    local locked=(--require-hashes -r requirements/run.lock -r requirements/dev.lock)
    if uv_works; then
        uv pip install --quiet --python .venv/bin/python "${locked[@]}" && return
        say "uv could not install the packages; trying pip"
    fi
    pip_install "${locked[@]}"
}

python=$(find_python)
say "making .venv with $("$python" --version)"
make_venv
install_locked
pip_install --no-deps --no-build-isolation --editable .
printf '%s\n' "$key" > "$stamp"
say "done: .venv/bin/asya"
