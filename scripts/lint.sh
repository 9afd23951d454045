#!/usr/bin/env bash
# Style and types, which scripts/test.sh begins with too. Expects the project's environment: bash scripts/in_env.sh bash scripts/lint.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ruff check .
ruff format --check .
mypy
