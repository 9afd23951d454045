"""How much memory a run will need, part by part, beside what is there; and what would make it fit.

Counted, not guessed: weights in a model that has no numbers, activations tensor by tensor (`engine.memory`). What
cannot be counted, the gaps that allocators leave and what programs need for themselves, is measured (docs/log.md).
Everything here is a function of values; nothing is loaded.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from yangtuo.engine.memory import MOST_CELLS, ModelShape
from yangtuo.i18n import gettext_noop
from yangtuo.model.model_sizes import ModelSizes

GAPS = gettext_noop("gaps of the allocator")
# Of activations and a loss's chunk: gaps that allocators leave. On a CPU the blocks of a step, taken and freed again in
# a heap of glibc's with nothing else in it, need 2 to 5 % more than their sum. Where its cache of small blocks is on, a
# hole that an aligned block has left is too small for the next of that size: 33 to 38 % of what layers keep.
_GAPS = {"cpu": 0.05, "cuda": 0.03}
_GAPS_WITH_THREAD_CACHE = 0.38
_OF_START = 0.37  # of frozen weights, on a CPU: loading, trial and first evaluation take it, with few cells or many
# Bytes on a CPU, all measured (docs/log.md): what is imported after the plan (45 MiB), work spaces of MKL (40), what
# the trial and the first evaluation leave in pieces (15); and oneDNN's code and work spaces, used in 16 bits.
_OF_LIBRARIES = 100 << 20
_OF_ONEDNN = 30 << 20
_OF_CONTEXT = 600 << 20  # bytes: CUDA's own, and the work spaces of cuBLAS
_OF_MASTER = 4  # bytes of a trained number; it is in float32 whatever the rest is
_OF_GRADIENT = 4
_OF_COPY = 2  # of a trained number, where the forward is in 16 bits
_OF_LOGIT = {"cpu": 12, "cuda": 11.3}  # bytes of a chunk's logit: of the head, log-probability, gradient
# Bytes of the optimizer's state for each trained number; AdamW's otherwise.
_OPTIMIZERS = {"adafactor": 0.1, "sgd": 0, "adamw_8bit": 2, "adamw_bnb_8bit": 2, "paged_adamw_8bit": 2, "lion_32bit": 4}
_OF_ADAMW = 8
_LEAST_CHUNK_ROWS = 16
_USABLE = 0.95  # of the memory that a card is sold with


@dataclass(frozen=True)
class Machine:
    """Where a run would happen.

    Attributes:
        kind: cpu, or cuda for any device with memory of its own.
        num_devices: processes, each with one.
        free_bytes: what the run may use of each; of a CPU, for all processes together.
        program_bytes: main memory of a process before the base is loaded.
        is_here: whether it was looked at, or named by `--plan_for`.
        has_thread_cache: whether freed blocks stay apart, see `engine.memory.joins_freed_memory`; of a CPU.
    """

    kind: str
    num_devices: int
    free_bytes: int
    program_bytes: int
    is_here: bool = True
    has_thread_cache: bool = False


def usable_bytes(gigabytes: float) -> int:
    """What a run may use of a card that is sold with so many gigabytes."""
    return int(gigabytes * 2**30 * _USABLE)


@dataclass(frozen=True)
class Run:
    """What decides the memory of a run, beside the model's sizes.

    Attributes:
        shape: for activations.
        checkpointing: whether layers are computed twice.
        most_cells: of a micro-batch, as asked for; None for what fits.
        longest: tokens of the longest row.
        step_cells: cells of a whole step on one device, at most.
        repeated: tokens of it that share their cells with others.
        predictions: of a whole step on one device, at most.
        chunk_bytes: of the float32 logits of the loss's chunk.
        optimizer: as `--optim` spells it.
        engine: "one", "ddp", "zero1", "zero2", "zero3" or "fsdp".
        may_divide: whether the options go with an engine that divides the weights.
        casts_weights: whether frozen weights are cast to 16 bits in each forward, which then keeps the copies.
        maps_weights: whether frozen weights are pages of their files, of which only those that are read take memory.
    """

    shape: ModelShape
    checkpointing: bool
    most_cells: int | None
    longest: int
    step_cells: int
    repeated: int
    predictions: int
    chunk_bytes: int
    optimizer: str
    engine: str
    casts_weights: bool = False
    maps_weights: bool = False
    may_divide: bool = True


@dataclass(frozen=True)
class MemoryPlan:
    """The parts of one device's memory, in bytes, in the order in which they come; and whether they fit."""

    parts: dict[str, int]
    cells: int
    there: int

    @property
    def total(self) -> int:
        """Of all parts."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether there is room."""
        return self.total <= self.there

    def as_json(self) -> dict[str, Any]:
        """For `--json` and run.json."""
        return {
            "parts": self.parts,
            "total": self.total,
            "there": self.there,
            "fits": self.fits,
            "micro_batch_tokens": self.cells,
        }


def plan(sizes: ModelSizes, run: Run, machine: Machine) -> MemoryPlan:
    """What a device needs; on a CPU, one process's part of main memory, beside its part of what is free."""
    there = machine.free_bytes // (machine.num_devices if machine.kind == "cpu" else 1)
    fixed = _fixed_parts(sizes, run, machine)
    gaps = 1 + (_GAPS_WITH_THREAD_CACHE if machine.has_thread_cache else _GAPS[machine.kind])
    of_cell = run.shape.bytes_per_cell(checkpointing=run.checkpointing)
    if run.most_cells is None:
        room = (there - sum(fixed.values()) - _of_chunk(sizes, run, machine, 1.0) * gaps) / (of_cell * gaps)
        most = min(MOST_CELLS[machine.kind], max(run.longest, int(room)))
    else:
        most = max(run.longest, run.most_cells)
    cells = min(most, max(run.step_cells, run.longest))
    part = min(1.0, cells / run.step_cells)  # of a step's rows, which are dealt evenly to its micro-batches
    head = _of_chunk(sizes, run, machine, part)
    if run.engine == "one" and cells >= run.step_cells:
        # Of one micro-batch, LoRA's gradients come where activations have gone.
        fixed["gradients"] = _OF_GRADIENT * sizes.num_full
    copies = math.ceil(run.repeated * part) * run.shape.bytes_per_repeated_token(checkpointing=run.checkpointing)
    moving = {gettext_noop("activations"): cells * of_cell + copies, gettext_noop("loss of a chunk"): head}
    if run.checkpointing:  # the layer that is computed again comes when the chunk has gone
        again = int(cells * run.shape.layer_bytes_per_cell())
        moving["activations"] -= min(again, head)
    # When the optimizer steps, it needs one more number a weight, where activations were.
    least = _OF_GRADIENT * _share(sizes.num_trained, run, machine, "zero1", "zero2", "zero3", "fsdp")
    moving["activations"] = max(moving["activations"], least - head)
    moving[GAPS] = int((gaps - 1) * sum(moving.values()))
    if machine.kind == "cpu":
        moving[gettext_noop("libraries")] = _OF_LIBRARIES + _OF_ONEDNN * (run.shape.width == 2)
        at_start = _OF_LIBRARIES + int(_OF_START * sizes.frozen_bytes)
        moving[GAPS] += max(0, at_start - sum(moving.values()))
    return MemoryPlan({name: size for name, size in (fixed | moving).items() if size}, cells, there)


def _of_chunk(sizes: ModelSizes, run: Run, machine: Machine, part: float) -> int:
    """Bytes of the largest chunk of the loss, where micro-batches have that part of a step's predictions at most.

    The loss divides a micro-batch's rows evenly; of several, a smaller one may be a single chunk that is full.
    """
    most = max(_LEAST_CHUNK_ROWS, run.chunk_bytes // (4 * sizes.num_rows))
    predictions = max(1, math.ceil(part * run.predictions))
    rows = min(most, predictions) if part < 1 else math.ceil(predictions / math.ceil(predictions / most))
    return math.ceil(rows * sizes.num_rows * _OF_LOGIT[machine.kind])


def _share(numbers: int, run: Run, machine: Machine, *engines: str) -> int:
    """What one process holds, where some engines divide it."""
    return -(-numbers // machine.num_devices) if run.engine in engines else numbers


def _fixed_parts(sizes: ModelSizes, run: Run, machine: Machine) -> dict[str, int]:
    is_cpu, trained = machine.kind == "cpu", sizes.num_trained
    frozen = sizes.frozen_bytes - (0 if is_cpu else sizes.unused_bytes)
    frozen -= sizes.embedding_bytes * (is_cpu and run.maps_weights)
    frozen = _share(frozen, run, machine, "zero3", "fsdp")
    if run.engine in ("zero3", "fsdp"):
        frozen += 2 * sizes.largest_layer_bytes  # gathered to be computed, and the next one
    masters = _share(trained, run, machine, "zero3", "fsdp")
    lora = round(masters * sizes.num_lora / trained) if trained else 0
    copied = trained * (run.shape.width == 2) + sizes.num_linear * run.casts_weights
    parts = {
        gettext_noop("program"): machine.program_bytes if is_cpu else _OF_CONTEXT,
        gettext_noop("frozen weights"): frozen,
        gettext_noop("LoRA"): _OF_MASTER * lora,
        gettext_noop("modules in full"): _OF_MASTER * (masters - lora),
        gettext_noop("copies in 16 bits"): _OF_COPY * copied,
        gettext_noop("gradients"): _OF_GRADIENT * _share(trained, run, machine, "zero2", "zero3", "fsdp"),
        gettext_noop("optimizer"): int(
            _OPTIMIZERS.get(run.optimizer, _OF_ADAMW) * _share(trained, run, machine, "zero1", "zero2", "zero3", "fsdp")
        ),
        gettext_noop("engine"): _of_engine(trained, run, machine),
    }
    return parts


def _of_engine(trained: int, run: Run, machine: Machine) -> int:
    """DDP's buckets hold gradients once more; ZeRO has its own part of the masters in one piece, and a bucket."""
    if run.engine == "ddp":
        return _OF_GRADIENT * trained
    if run.engine.startswith("zero"):
        return _OF_MASTER * -(-trained // machine.num_devices) + _OF_GRADIENT * trained
    return 0


@dataclass(frozen=True)
class Change:
    """Something that a user could do: the options, and the plan with them."""

    options: str
    plan: MemoryPlan


def changes_that_fit(sizes: ModelSizes, run: Run, machine: Machine, variants: dict[str, ModelSizes]) -> list[Change]:
    """The three cheapest changes, or pairs of them, that fit; the first costs least.

    Args:
        sizes: as asked for.
        run: as asked for.
        machine: where.
        variants: sizes under options that change the model, by those options, the cheapest first.
    """
    found: list[Change] = []
    for options, other, changed in _candidates(sizes, run, machine, variants):
        new = plan(other, changed, machine)
        if new.fits and not any(_words(change.options) <= _words(options) for change in found):
            found.append(Change(options, new))
        if len(found) == _MOST_CHANGES:
            break
    return found


_MOST_CHANGES = 3
_CHECKPOINTING = "--gradient_checkpointing"


def _words(options: str) -> set[str]:
    return {part.removeprefix("--") for part in options.split(" --")}


def _candidates(
    sizes: ModelSizes, run: Run, machine: Machine, variants: dict[str, ModelSizes]
) -> Iterator[tuple[str, ModelSizes, Run]]:
    """Single changes before pairs, pairs before all at once."""
    again = [] if run.checkpointing else [(_CHECKPOINTING, replace(run, checkpointing=True))]
    cut = [] if run.most_cells is None else [("--micro_batch_tokens auto", replace(run, most_cells=None))]
    shorter = [
        (f"--max_seq_length {length}", replace(run, longest=min(run.longest, length)))
        for length in (run.longest // 2, run.longest // 4)
        if length >= _SHORTEST
    ]
    can_divide = machine.kind == "cuda" and run.engine == "ddp" and run.may_divide
    divided = [("--fsdp full_shard", replace(run, engine="fsdp"))] if can_divide else []
    for options, changed in (*cut, *again, *divided, *shorter):
        yield options, sizes, changed
    for options, other in variants.items():
        yield options, other, run
    for options, changed in again:
        for more, other in variants.items():
            yield f"{options} {more}", other, changed
        for more, both in shorter:
            yield f"{options} {more}", sizes, replace(both, checkpointing=True)


_SHORTEST = 64  # tokens
