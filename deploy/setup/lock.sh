#!/usr/bin/env bash
# Resolve pyproject.toml into lock files with hashes, for every Python >= 3.11 and no index in particular.
#   deploy/requirements/run.txt    what the daemon needs
#   deploy/requirements/dev.txt    the same versions, and what its tests need
#   deploy/requirements/build.txt  what builds the wheel
# Run by `make lock`; `make lock UPGRADE=1` moves to the newest versions that pyproject.toml allows.
set -euo pipefail
cd "$(dirname "$0")/../.."
uv="${VENV:-.venv}/bin/uv"
options=(--universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --quiet
    --custom-compile-command "make lock")
[ -z "${UPGRADE:-}" ] || options+=(--upgrade)

echo "lock: deploy/requirements/run.txt"
"$uv" pip compile "${options[@]}" pyproject.toml -o deploy/requirements/run.txt
echo "lock: deploy/requirements/dev.txt"
"$uv" pip compile "${options[@]}" --extra dev -c deploy/requirements/run.txt pyproject.toml -o deploy/requirements/dev.txt
echo "lock: deploy/requirements/build.txt"
grep -oE 'setuptools>=[0-9]+' pyproject.toml | head -1 |
    "$uv" pip compile "${options[@]}" --no-annotate -c deploy/requirements/dev.txt - -o deploy/requirements/build.txt
