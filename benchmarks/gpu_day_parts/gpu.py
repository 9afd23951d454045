"""What nvidia-smi says of the cards, and the work that fits on one. Imports no torch."""

import os
import re
import subprocess
from dataclasses import dataclass
from typing import Any

_ASKED = ("name", "driver_version", "compute_cap", "memory.total", "memory.free")


def gpus() -> list[dict[str, Any]]:
    """The visible NVIDIA GPUs; empty where there is none, or no driver."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader,nounits"]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        if not visible.strip() or visible.strip() == "-1":
            return []
        command.append(f"--id={visible}")
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return cards_in(done.stdout) if done.returncode == 0 else []


def cards_in(lines: str) -> list[dict[str, Any]]:
    """Of the lines that nvidia-smi prints."""
    found = []
    for line in lines.splitlines():
        values = [value.strip() for value in line.split(",")]
        if len(values) == len(_ASKED):
            name, driver, capability, total, free = values
            sizes = {"memory_gib": float(total) / 1024, "free_gib": float(free) / 1024}
            found.append({"name": name, "driver": driver, "compute_capability": capability, **sizes})
    return found


def folder_name(date: str, card: str) -> str:
    """Of the results of a day on a card."""
    return f"{date}-{re.sub(r'[^a-z0-9]+', '-', card.lower()).strip('-')}"


@dataclass(frozen=True)
class Work:
    """What speed and memory are measured on; see `job.Job`."""

    base: str
    few_layers: str
    row_tokens: int
    full_rows: int


# GiB that must be free. Plain transformers keeps the logits of all positions: an 8B with 2 rows of 4,096 takes some 93.
_WORK = (
    (105, Work("8b", "8b_8_layers", 4096, 2)),
    (62, Work("8b", "8b_8_layers", 4096, 1)),
    (44, Work("1b", "1b", 4096, 2)),
    (22, Work("1b", "1b", 4096, 1)),
    (14, Work("1b", "1b", 2048, 1)),
    (10, Work("1b", "1b", 1024, 1)),
)


def work_for(free_gib: float) -> Work | None:
    """The largest that fits; None where none does."""
    return next((work for least, work in _WORK if free_gib >= least), None)
