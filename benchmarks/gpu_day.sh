#!/usr/bin/env bash
# Everything that has to be measured on a real NVIDIA card, in order of worth; benchmarks/README.md tells how.
#   bash benchmarks/gpu_day.sh                  all parts that have no result yet
#   bash benchmarks/gpu_day.sh --list           which parts there are, and how long they take
#   bash benchmarks/gpu_day.sh rates nccl_one   these only
#   bash benchmarks/gpu_day.sh --again rates    this one once more
#   bash benchmarks/gpu_day.sh --rehearse       every part on the CPU, as far as it goes, to see that it runs
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# Before the set-up: a lent machine may have what is needed, and no way to a package index.
export PYTHONPATH="$root/src:$root/benchmarks:$root${PYTHONPATH:+:$PYTHONPATH}"
needed='import importlib.util as u, importlib.metadata as m, sys
names = ("transformers", "peft", "accelerate", "sentencepiece", "gguf", "psutil", "filelock", "rich", "yaml", "pytest", "xdist")
sys.exit(sys.version_info < (3, 11) or not all(map(u.find_spec, ("torch", *names))) or tuple(map(int, m.version("torch").split(".")[:2])) < (2, 13))'
if ! python -c "$needed" 2>/dev/null; then
    . "$root/scripts/setup.sh"
fi
exec python -m gpu_day_parts "$@"
