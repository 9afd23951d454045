#!/usr/bin/env bash
# All checks, with their own set-up on a fresh machine: style, types, tests. Arguments go to pytest:
#   bash scripts/test.sh                 everything (the demo's real run included), a process for each processor
#   bash scripts/test.sh fast            style, types and the quick ring (unit, properties, docs), as plain `pytest` runs it
#   bash scripts/test.sh -m 'not demo'   without the minutes of the demo
#   bash scripts/test.sh --all-families  every family of models in bfloat16 too, not one of each kind
#   bash scripts/test.sh tests/unit -x   what is named, as pytest runs it by itself; the same with -n, --lf or --pdb
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/setup.sh

install_engines() {
    python -c 'import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ("deepspeed", "bitsandbytes", "go", "tensorboard", "build", "nbclient", "ipykernel", "mkdocs", "material", "jieba"))))' \
        || python -m pip install --quiet --disable-pip-version-check -r requirements-engines.lock || return
    # Chat templates as models publish them: the copies that trl carries, in a place where nothing imports it.
    python -c 'import pathlib, sys; sys.exit(not pathlib.Path(sys.prefix, "published", "trl").is_dir())' \
        || python -m pip install --quiet --disable-pip-version-check --no-deps trl==1.16.0 \
            --target "$(python -c 'import sys; print(sys.prefix)')/published"
}

# Beside each other: pip takes one processor. Both are waited for, whichever fails.
install_engines & engines=$!
code=0
bash scripts/lint.sh || code=$?
wait "$engines" || exit
[ "$code" -eq 0 ] || exit "$code"

# Whether the arguments name tests, or say themselves how they are run.
decides_itself() {
    local word is_value=
    for word in "$@"; do
        if [ -n "$is_value" ]; then is_value=; continue; fi
        case "$word" in
            -n* | --numprocesses* | --dist* | --pdb* | --trace | --co | --collect* | --lf | --last* | --ff | --fail* | --sw* | --stepwise* | -h | --help | --version) return 0 ;;
            -p) is_value=; continue ;;
            -m | -k | -c | -o | -W | -r | --maxfail | --deselect | --ignore | --ignore-glob | --durations | --tb | --basetemp | --junit*xml | --rootdir | --confcutdir | --color | --log-level | --hypothesis-seed | --hypothesis-profile) is_value=1 ;;
            -*) ;;
            *) if [ -e "${word%%::*}" ]; then return 0; fi ;;
        esac
    done
    return 1
}

if [ "${1:-}" = fast ]; then shift; exec python -m pytest "$@"; fi
if decides_itself "$@"; then exec python -m pytest "$@"; fi
exec python -m pytest tests "$@"
