#!/usr/bin/env bash
# All checks, with their own set-up on a fresh machine: style, types, tests. Arguments go to pytest:
#   bash scripts/test.sh              everything (the demo's real run included)
#   bash scripts/test.sh -m 'not demo'   without the minutes of the demo
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/setup.sh
python -c 'import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ("deepspeed", "bitsandbytes", "go"))))' \
    || python -m pip install --quiet --disable-pip-version-check -r requirements-engines.lock

ruff check .
ruff format --check .
mypy
exec python -m pytest "$@"
