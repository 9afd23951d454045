#!/usr/bin/env bash
# All checks, with their own set-up on a fresh machine: style, types, tests. Arguments go to pytest:
#   bash scripts/test.sh              everything (the demo's real run included), two processes at a time
#   bash scripts/test.sh -m 'not demo'   without the minutes of the demo
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/setup.sh
python -c 'import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ("deepspeed", "bitsandbytes", "go"))))' \
    || python -m pip install --quiet --disable-pip-version-check -r requirements-engines.lock

ruff check .
ruff format --check .
mypy
[ $# -eq 0 ] || exec python -m pytest "$@"
# Two at a time, tiny models with one thread each; runs of several processes by themselves, since they watch the clock.
OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --ignore tests/distributed
exec python -m pytest tests/distributed
