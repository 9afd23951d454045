"""How large a micro-batch may be where a step cannot be redone (DeepSpeed, FSDP): measured before the first step.

Those engines exchange gradients inside the backward, so running out of memory there leaves ranks in different places.
Two small micro-batches of the longest rows are computed forward, and the line through what they keep in memory is
followed to the memory that is free. Nothing runs out of memory on the way, and no gradient is made.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from yangtuo.engine.batch_tensors import Batch
from yangtuo.engine.layout import pad, share
from yangtuo.engine.loss import SupervisedLoss, weighted_sum
from yangtuo.engine.memory import MOST_CELLS, free_bytes
from yangtuo.engine.processes import largest
from yangtuo.engine.steps import Execution, Planner
from yangtuo.errors import OutOfMemoryError
from yangtuo.model.sharding import reshard

logger = logging.getLogger(__name__)

_BACKWARD = 1.25  # what a backward needs beside what the forward has kept, for one layer's gradients
_USED = 0.9  # part of the free memory that may be used: allocators leave gaps
_CELLS = (256, 1024)  # of the two micro-batches; at most a row where rows are longer


def can_measure(device: torch.device) -> bool:
    """Whether the device keeps account of its memory."""
    if device.type == "cpu":
        return False
    try:
        torch.accelerator.reset_peak_memory_stats(device)
    except RuntimeError:
        return False
    return True


def kept_bytes(compute: Callable[[], object], device: torch.device) -> int:
    """Bytes that `compute` needs at most on the device."""
    torch.accelerator.reset_peak_memory_stats(device)
    before = torch.accelerator.memory_allocated(device)
    compute()
    return int(torch.accelerator.max_memory_allocated(device) - before)


def calibrate(
    model: nn.Module, loss: SupervisedLoss, planner: Planner, execution: Execution, accelerator: Accelerator
) -> Execution:
    """The execution with as many cells a micro-batch as will fit; called by all ranks.

    Raises:
        OutOfMemoryError: not even the longest row fits.
    """
    measured = []
    model.train()  # with dropout and checkpointing
    for cells in _CELLS:
        rows, num_cells = _longest_rows(planner, cells)
        lay_out = share if execution.shares_prefixes else pad
        batch = Batch.of(lay_out(planner.examples, rows, np.ones(len(rows))), accelerator.device)

        def forward(batch: Batch = batch) -> None:
            with accelerator.autocast():
                weighted_sum(model, loss, batch)

        kept = kept_bytes(forward, accelerator.device)
        reshard(model)
        measured.append((num_cells, kept))
    fits = cells_that_fit(measured, free_bytes(accelerator.device))
    fits = -int(largest([-float(fits)], accelerator.device)[0])  # of the rank with the least
    longest = int(planner.num_tokens.max())
    if fits < longest:
        raise OutOfMemoryError(
            f"a row of {longest} tokens needs more memory than is free (about {fits} would fit); give "
            "--gradient_checkpointing, or a smaller --max_seq_length"
        )
    chosen = min(fits, MOST_CELLS["cuda"])
    logger.info("engine: micro-batches of at most %s tokens, by a measurement of the memory", f"{chosen:,}")
    return replace(execution, max_cells=chosen, is_auto=False)


def cells_that_fit(measured: Sequence[tuple[int, int]], free: int) -> int:
    """Cells at which the line through two measurements (cells, bytes) reaches what may be used; at least 0."""
    (cells_a, bytes_a), (cells_b, bytes_b) = measured
    slope = max((bytes_b - bytes_a) / max(cells_b - cells_a, 1), bytes_b / cells_b / 2, 1.0)
    return max(0, int(cells_b + (free * _USED / _BACKWARD - bytes_b) / slope))


def _longest_rows(planner: Planner, cells: int) -> tuple[list[int], int]:
    """The longest rows, as many as `cells` hold, at least one; and their tokens."""
    order = np.argsort(-planner.num_tokens, kind="stable")
    fitting = int(np.searchsorted(np.cumsum(planner.num_tokens[order]), cells, side="right"))
    rows = order[: max(1, fitting)]
    return [int(row) for row in rows], int(planner.num_tokens[rows].sum())
