"""How large a micro-batch may be on a device that keeps account of its memory: measured before the first step.

Two small micro-batches of the longest rows are computed, and the line through what they need is followed to the memory
that is free. Where a step can be redone, forward and backward are measured, on the model below the engine, so that no
gradient is kept or exchanged. DeepSpeed and FSDP exchange gradients inside the backward: there the forward is measured,
and what a backward needs beside it is known well enough.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel

from yangtuo.engine.batch_tensors import Batch
from yangtuo.engine.comparison import computed_in
from yangtuo.engine.compiled import are_computed_twice, has_one_graph, layers_of
from yangtuo.engine.layout import pad, share
from yangtuo.engine.loss import SupervisedLoss, weighted_sum
from yangtuo.engine.memory import MOST_CELLS, free_bytes
from yangtuo.engine.processes import largest
from yangtuo.engine.steps import Execution, Planner
from yangtuo.errors import OutOfMemoryError, is_out_of_memory
from yangtuo.i18n import Message
from yangtuo.model.sharding import reshard

logger = logging.getLogger(__name__)

_BACKWARD = 1.25  # what a backward needs by what the forward has kept
_RECOMPUTED = 40  # with checkpointing: what one layer needs while it is computed again, by what one has kept
_USED = 0.9  # part of the free memory that may be used: allocators leave gaps
_CELLS = (256, 1024)  # of the two micro-batches; at most a row where rows are longer
_OF_TRAINED_WEIGHT = 8  # bytes of AdamW's moments, which the first step makes
_OF_GRADIENT = 4  # bytes, which a measured forward does not make


@dataclass(frozen=True)
class Measured:
    """What is measured.

    Attributes:
        model: as the engine has wrapped it.
        base: the causal language model inside.
        loss: its loss function.
        accelerator: sets device and dtype.
        goes_back: whether a backward may be computed beside the engine.
    """

    model: nn.Module
    base: PreTrainedModel
    loss: SupervisedLoss
    accelerator: Accelerator
    goes_back: bool

    @property
    def checkpoints(self) -> bool:
        """Whether layers are computed twice."""
        return are_computed_twice(self.base)

    def trained(self) -> list[nn.Parameter]:
        """The weights whose gradients are computed."""
        return [parameter for parameter in self.base.parameters() if parameter.requires_grad]

    def compute(self, batch: Batch) -> None:
        """A forward, and a backward where it may be; nothing is left of it."""
        with self.accelerator.autocast():
            total = weighted_sum(self.base if self.goes_back else self.model, self.loss, batch)
        if self.goes_back:
            torch.autograd.grad(total, self.trained(), allow_unused=True)

    def later_bytes(self) -> int:
        """What steps will have beside: the optimizer's moments, and gradients where none was computed."""
        num_trained: int = sum(parameter.numel() for parameter in self.trained())
        if self.goes_back:
            return _OF_TRAINED_WEIGHT * num_trained
        return (_OF_TRAINED_WEIGHT + _OF_GRADIENT) * num_trained // int(self.accelerator.num_processes)

    def growth(self) -> float:
        """What a step needs by what was measured."""
        if self.goes_back:
            return 1.0
        return _BACKWARD + (_RECOMPUTED / max(1, len(layers_of(self.base))) if self.checkpoints else 0.0)


def can_measure(device: torch.device) -> bool:
    """Whether the device keeps account of its memory."""
    if device.type == "cpu":
        return False
    try:
        torch.accelerator.max_memory_allocated(device)
    except RuntimeError:
        return False
    return True


def peak_bytes(device: torch.device) -> int | None:
    """The most that this process's tensors have taken of the device since the last measurement; None on a CPU."""
    return int(torch.accelerator.max_memory_allocated(device)) if can_measure(device) else None


def kept_bytes(compute: Callable[[], object], device: torch.device) -> int:
    """Bytes that `compute` needs at most on the device."""
    torch.accelerator.reset_peak_memory_stats(device)
    before = torch.accelerator.memory_allocated(device)
    compute()
    return int(torch.accelerator.max_memory_allocated(device) - before)


def calibrate(measured: Measured, planner: Planner, execution: Execution) -> Execution:
    """The execution with as many cells a micro-batch as will fit; called by all ranks.

    Gradient checkpointing is turned on where it may be, and the longest row would not fit without.

    Raises:
        OutOfMemoryError: not even the longest row fits.
    """
    longest = int(planner.num_tokens.max())
    fits = _cells_of_all(measured, planner, execution)
    base, device = measured.base, measured.accelerator.device
    may = execution.may_checkpoint and measured.goes_back and not measured.checkpoints
    if execution.compiles:  # as the trial of compiled layers has it
        may = may and has_one_graph(base, device, computed_in(base))
    if fits < longest and may:
        tell_checkpointing(longest)
        base.activation_checkpointing_enable()
        fits = _cells_of_all(measured, planner, execution)
    if fits < longest:
        free = free_bytes(device) / 2**30
        told = Message(
            "a row of {longest} tokens needs more memory than the {free:.1f} GiB that are free (about {fits} tokens "
            "would fit)",
            longest=longest,
            free=free,
            fits=fits,
        )
        if measured.checkpoints:
            raise OutOfMemoryError("{told}; give a smaller --max_seq_length", told=told)
        raise OutOfMemoryError("{told}; give --gradient_checkpointing, or a smaller --max_seq_length", told=told)
    chosen = min(fits, MOST_CELLS["cuda"])
    logger.info("engine: micro-batches of at most %s tokens, by a measurement of the memory", f"{chosen:,}")
    return replace(execution, max_cells=chosen, is_auto=False)


def tell_memory(peaks: Sequence[int | None]) -> None:
    """Say how much memory each device needed at most; nothing of CPUs."""
    known = [f"{peak / 2**30:.1f}" for peak in peaks if peak is not None]
    if known:
        shown = ", ".join(known)
        if len(known) == 1:
            logger.info("memory: at most %s GiB of the device", shown)
        else:
            logger.info("memory: at most %s GiB of the devices, by rank", shown)


def tell_checkpointing(longest: int) -> None:
    """Say that gradient checkpointing is turned on, and why."""
    logger.warning(
        "gradient checkpointing: on, since a row of %d tokens would not fit otherwise (about a third slower; "
        "--gradient_checkpointing False keeps it off)",
        longest,
    )


def _cells_of_all(measured: Measured, planner: Planner, execution: Execution) -> int:
    """Of the rank with the least memory."""
    device = measured.accelerator.device
    fits = _cells(measured, planner, execution, device)
    return -int(largest([-float(fits)], device)[0])


def _cells(measured: Measured, planner: Planner, execution: Execution, device: torch.device) -> int:
    """How many cells will fit; none where the first measurement runs out of memory."""
    points: list[tuple[int, int]] = []
    measured.model.train()  # with dropout and checkpointing
    measured.loss.gradient_factor = None  # no gradient is added to any
    lay_out = share if execution.shares_prefixes else pad
    for cells in _CELLS:
        rows = _longest_rows(planner, cells)
        layout = lay_out(planner.examples, rows, np.ones(len(rows)))
        try:
            taken = kept_bytes(functools.partial(measured.compute, Batch.of(layout, device)), device)
        except RuntimeError as error:
            # Where ranks exchange weights in a forward, the others wait for this one: it has to end.
            if not is_out_of_memory(error) or not measured.goes_back:
                raise
            return points[0][0] if points else 0
        finally:
            torch.accelerator.empty_cache()
        reshard(measured.model)
        points.append((layout.num_cells, taken))
    free = max(0, free_bytes(device) - measured.later_bytes())
    return cells_that_fit(points, free * _USED / measured.growth())


def cells_that_fit(points: Sequence[tuple[int, int]], usable: float) -> int:
    """Cells at which the line through two measurements (cells, bytes) reaches what may be used; at least 0."""
    (cells_a, bytes_a), (cells_b, bytes_b) = points
    slope = max((bytes_b - bytes_a) / max(cells_b - cells_a, 1), bytes_b / cells_b / 2, 1.0)
    return max(0, int(cells_b + (usable - bytes_b) / slope))


def _longest_rows(planner: Planner, tokens: int) -> list[int]:
    """The longest rows, as many as have so many tokens, at least one."""
    order = np.argsort(-planner.num_tokens, kind="stable")
    fitting = int(np.searchsorted(np.cumsum(planner.num_tokens[order]), tokens, side="right"))
    return [int(row) for row in order[: max(1, fitting)]]
