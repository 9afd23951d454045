"""The estimate of engine/memory.py, bytes a cell, against what a forward and backward take on the device."""

from typing import Any

import torch

from gpu_day_parts.job import Job
from gpu_day_parts.layered import Tuned
from yangtuo.engine.memory import ModelShape, choose_max_cells, free_bytes


def measure(job: Job) -> dict[str, Any]:
    """At three sizes, plain and with gradient checkpointing: bytes a cell is the slope between two of them."""
    tuned = Tuned(job.base, job.device)
    row = 16 if job.rehearses else 1024
    shape = ModelShape.of(tuned.config, tuned.dtype.itemsize, tuned.rank)
    tuned.step(tuned.batch(1, row))  # gradients are there from now on, as in all micro-batches of a step but the first
    found: dict[str, Any] = {"steady_bytes": _allocated(tuned), "base": job.base, "kinds": {}}
    for checkpointing in (False, True):
        if checkpointing:
            tuned.model.activation_checkpointing_enable()
        sizes = [{"cells": row * num_rows, "bytes": _peak(tuned, num_rows, row)} for num_rows in (1, 2, 4)]
        free = free_bytes(tuned.device)
        estimate = shape.bytes_per_cell(checkpointing=checkpointing)
        found["kinds"]["checkpointing" if checkpointing else "plain"] = {
            "sizes": sizes,
            "estimated_bytes_a_cell": estimate,
            "free_bytes": free,
            "cells_by_the_estimate": choose_max_cells(shape, free, tuned.device.type, checkpointing=checkpointing),
            **_line(sizes, estimate, free),
        }
    told = [
        f"{kind} {one['estimated_bytes_a_cell'] / 1e6:.2f} MB a cell"
        + (
            f", really {one['bytes_a_cell'] / 1e6:.2f} ({one['estimate_over_it']:.2f} x)"
            if "bytes_a_cell" in one
            else ""
        )
        for kind, one in found["kinds"].items()
    ]
    return found | {"headline": "estimate: " + "; ".join(told)}


def _line(sizes: list[dict[str, Any]], estimate: int, free: int) -> dict[str, Any]:
    """Through the smallest and the largest size; nothing where the device keeps no account."""
    first, last = sizes[0], sizes[-1]
    if first["bytes"] is None:
        return {}
    slope = (last["bytes"] - first["bytes"]) / (last["cells"] - first["cells"])
    rest = first["bytes"] - slope * first["cells"]
    return {
        "bytes_a_cell": slope,
        "bytes_beside": rest,
        "estimate_over_it": estimate / slope,
        "cells_that_fit": int((free - rest) / slope),
    }


def _allocated(tuned: Tuned) -> int | None:
    return None if tuned.device.type == "cpu" else torch.cuda.memory_allocated()


def _peak(tuned: Tuned, num_rows: int, num_tokens: int) -> int | None:
    """Bytes that a micro-batch takes at most, beside what was there before it."""
    batch = tuned.batch(num_rows, num_tokens)
    before = _allocated(tuned)
    if before is not None:
        torch.cuda.reset_peak_memory_stats()
    tuned.step(batch)
    tuned.wait()
    return None if before is None else torch.cuda.max_memory_allocated() - before
