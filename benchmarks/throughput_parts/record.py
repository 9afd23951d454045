"""The JSON file: every step of every run, and what is needed to read or repeat it."""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from throughput_parts.runs import Comparison, Run
from throughput_parts.settings import GIB, LEARNING_RATE, LORA_ALPHA, LORA_DROPOUT, LORA_RANK, PROJECTIONS, SEED
from throughput_parts.summary import summarise
from throughput_parts.work import distinct_prefixes, useful_flop
from yangtuo.errors import UsageError


def write(options: argparse.Namespace, model: Path, comparison: Comparison) -> None:
    """Write what is known so far to `--json`; folders of the machine are left out.

    Raises:
        UsageError: it cannot be written.
    """
    ids = json.dumps([row.input_ids for row in comparison.rows]).encode()
    steps = [[len(rows), *distinct_prefixes([row.input_ids for row in rows])] for rows in comparison.plan]
    record = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": ["python", "benchmarks/throughput.py", *map(without_folders, sys.argv[1:])],
        "commit": _commit(),
        "versions": _versions(),
        "machine": _computer() | comparison.machine,
        "settings": {
            "model": model.name,
            "dataset_dir": options.dataset_dir.resolve().name,
            "rows": len(comparison.rows),
            "rows_sha256": hashlib.sha256(ids).hexdigest(),
            "batch": comparison.batch,
            "max_seq_length": options.max_seq_length,
            "steps": comparison.num_steps,
            "lora_rank": LORA_RANK,
            "lora_alpha": LORA_ALPHA,
            "lora_dropout": LORA_DROPOUT,
            "trainable": PROJECTIONS,
            "learning_rate": LEARNING_RATE,
            "seed": SEED,
        },
        "work": {
            "rows_distinct_tokens_attention_pairs_of_each_step": steps,
            "flop_of_each_step": [useful_flop(rows, comparison.shape) for rows in comparison.plan],
        },
        "matmul_flop_per_s": comparison.matmul_flop_per_s,
        "summary": summarise(comparison),
        "rounds": [
            {name: asdict(run) if isinstance(run, Run) else {"failure": run} for name, run in entries.items()}
            for entries in comparison.rounds
        ],
        "notes": comparison.notes,
    }
    try:
        options.json.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--json {options.json}: {error.strerror}") from error


def without_folders(word: str) -> str:
    """A word of the command line without the folders of the machine that it was given on."""
    return Path(word).name if Path(word).is_absolute() else word


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("yangtuo", "torch", "transformers", "peft", "accelerate", "trl", "datasets", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _computer() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": cpu, "cores": os.cpu_count(), "memory_gib": memory_bytes / GIB, "system": platform.platform()}


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None
