#!/usr/bin/env bash
# Runs a command in the project's own environment, which is made where there is none:
#   bash scripts/in_env.sh ruff check .
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/setup.sh
exec "$@"
