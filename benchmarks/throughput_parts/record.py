"""The JSON file: every step of every run, and what is needed to read or repeat it."""

import argparse
import hashlib
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from circumstances import commit, computer, versions, without_folders

from throughput_parts.runs import Comparison, Run
from throughput_parts.settings import LEARNING_RATE, LORA_ALPHA, LORA_DROPOUT, LORA_RANK, PROJECTIONS, SEED
from throughput_parts.summary import summarise
from throughput_parts.work import distinct_prefixes, useful_flop
from yangtuo.errors import UsageError

_PACKAGES = ("yangtuo", "torch", "transformers", "peft", "accelerate", "trl", "datasets", "numpy")


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
        "commit": commit(),
        "versions": versions(_PACKAGES),
        "machine": computer() | comparison.machine,
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
