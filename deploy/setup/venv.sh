#!/usr/bin/env bash
# Make the virtual environment of the project from its lock file: Python >= 3.11, hashes checked, aiopsd editable.
# Does nothing when the environment was made from these very lock files. Run by `make venv`; VENV says where.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv="${VENV:-.venv}"

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3.11 python3.12 python3.13 python3; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

apt_install() { DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >/dev/null; }

if ! python="$(find_python)"; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "venv: no Python >= 3.11 here; installing python3 and python3-venv by apt"
        apt-get update -qq && apt_install python3 python3-venv
    fi
    python="$(find_python)" || {
        echo "venv: needs Python 3.11 or newer; on Debian 12 or Ubuntu 24.04: apt-get install python3 python3-venv" >&2
        exit 1
    }
fi

key="$(cat deploy/requirements/dev.txt deploy/requirements/build.txt pyproject.toml deploy/setup/venv.sh |
    sha256sum | cut -c1-16)-$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
stamp="$venv/.made-from-$key"
[ -e "$stamp" ] && exit 0

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    echo "venv: making $venv with $python"
    rm -rf "$venv"
    if ! "$python" -m venv "$venv" >/dev/null 2>&1; then
        rm -rf "$venv" # Debian without python3-venv leaves half an environment behind
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
            echo "venv: installing python$version-venv by apt"
            apt-get update -qq
            apt_install "python$version-venv" || apt_install python3-venv
        fi
        "$python" -m venv "$venv" || {
            rm -rf "$venv"
            echo "venv: $python cannot make one; on Debian or Ubuntu: apt-get install python3-venv" >&2
            exit 1
        }
    fi
fi
echo "venv: installing deploy/requirements/dev.txt into $venv (about a minute the first time)"
pip_install() {
    local output
    output="$("$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" 2>&1)" || {
        echo "$output" >&2
        exit 1
    }
}
pip_install --require-hashes -r deploy/requirements/dev.txt
pip_install --no-deps --no-build-isolation -e .
rm -f "$venv"/.made-from-*
touch "$stamp"
echo "venv: ready"
