"""Which examples form a step, who computes them, and how much each of their tokens counts. Pure: values in, values out.

A step is `rows_per_group x groups_per_rank x world size` rows in epoch order; the last step of an epoch is short and
nothing carries over. A plan is a function of (order, step, world size, largest micro-batch) alone, so every rank
knows all of it. Which rank computes which rows, and in how many micro-batches, is execution: the rows' loads decide
it, not `rows_per_group`. All ranks run the same number of micro-batches: one without rows of its own runs some of
weight zero.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from yangtuo.config.choices import DataOrder, LossReduction
from yangtuo.data import mixing
from yangtuo.data.examples import Examples
from yangtuo.i18n import Message

Rows = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]


@dataclass(frozen=True)
class StepShape:
    """How many rows form a step.

    Attributes:
        rows_per_group: `per_device_train_batch_size`.
        groups_per_rank: `gradient_accumulation_steps`.
        world_size: number of processes that share a step.
    """

    rows_per_group: int
    groups_per_rank: int
    world_size: int

    @property
    def rows_per_step(self) -> int:
        """Rows of a whole step, over all ranks."""
        return self.rows_per_group * self.groups_per_rank * self.world_size

    def num_steps(self, num_rows: int, *, drop_last: bool = False) -> int:
        """Steps of an epoch; with `drop_last` the short last one is left out."""
        whole, rest = divmod(num_rows, self.rows_per_step)
        return whole + (1 if rest and not drop_last else 0)


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one forward and backward, and what the weights of each one's tokens are multiplied with."""

    rows: Rows
    weights: Weights


@dataclass(frozen=True)
class Unit:
    """Rows that are computed together, by their index in the step, and the cells that they cost."""

    members: tuple[int, ...]
    load: int


UnitsOf = Callable[[Rows], Sequence[Unit]]


@dataclass(frozen=True)
class StepPlan:
    """One step.

    Attributes:
        rows: all of its rows, in epoch order.
        total_weight: sum of the weights of all supervised tokens of the step, what the loss is divided by.
        micro_batches: for each rank, the same number of them.
    """

    rows: Rows
    total_weight: float
    micro_batches: list[list[MicroBatch]]


def rows_in_order(examples: Examples, mix: Sequence[float] | None, epoch: int, seed: int, order: DataOrder) -> Rows:
    """The rows of an epoch as its steps take them.

    Args:
        examples: all rows.
        mix: how often an epoch has the rows of each file; None for once each.
        epoch: its number from 0.
        seed: of the order, and of what is drawn.
        order: shuffled, or as in the files.
    """
    rows = rows_of_epoch(examples, mix, epoch, seed)
    return epoch_order(rows, epoch, seed, order, examples.row_numbers())


def rows_of_epoch(examples: Examples, mix: Sequence[float] | None, epoch: int, seed: int) -> Rows:
    """The rows of an epoch as they come in the files, see `rows_in_order`."""
    return np.arange(len(examples)) if mix is None else mixing.rows_of_epoch(examples.source_numbers, mix, epoch, seed)


def epoch_order(rows: Rows, epoch: int, seed: int, order: DataOrder, row_numbers: Rows | None = None) -> Rows:
    """The order in which an epoch visits these examples; numpy's PCG64 keeps it the same on every platform.

    Examples of one row of the data (`row_numbers`, of every example) that follow each other stay together, so that what
    they begin with is computed once.
    """
    if order is DataOrder.SEQUENTIAL:
        return rows
    together = np.zeros(len(rows), dtype=bool)
    if row_numbers is not None:
        together[1:] = (np.diff(rows) == 1) & (np.diff(row_numbers[rows]) == 0)
    firsts = np.flatnonzero(~together)
    drawn = np.random.default_rng([seed, epoch]).permutation(len(firsts))
    sizes = np.diff([*firsts, len(rows)])[drawn]
    behind = np.cumsum(sizes)
    return rows[np.arange(len(rows)) - np.repeat(behind - sizes - firsts[drawn], sizes)]


def step_rows(order: Rows, step: int, shape: StepShape) -> Rows:
    """Rows of the 0-based step `step` of an epoch, whose rows are in `order`."""
    begin = step * shape.rows_per_step
    return order[begin : begin + shape.rows_per_step]


def plan_step(
    rows: Rows,
    shape: StepShape,
    row_weights: Weights,
    reduction: LossReduction,
    units_of: UnitsOf,
    max_load: int,
) -> StepPlan:
    """Plan a step.

    Args:
        rows: its rows, see `step_rows`.
        shape: rows of a step.
        row_weights: of every row of the data set, the weights of its supervised tokens added up; mostly their number.
        reduction: how the loss is averaged.
        units_of: which of given rows are computed together, and what they cost.
        max_load: largest load of a micro-batch; a unit that is larger is one by itself.
    """
    weights = token_weights(rows, row_weights, shape.rows_per_group, reduction)
    total = float(np.sum(weights * row_weights[rows]))
    return StepPlan(rows, total, _deal(rows, weights, units_of(rows), shape.world_size, max_load))


def plan_evaluation(
    row_weights: Weights,
    rows_per_group: int,
    world_size: int,
    reduction: LossReduction,
    units_of: UnitsOf,
    max_load: int,
) -> StepPlan:
    """Plan an evaluation: every row once, whatever the number of ranks; arguments as in `plan_step`.

    With `LossReduction.DEVICE_BATCH` a group's mean counts by its rows, as the 2023 script's evaluation does.
    """
    rows = np.arange(len(row_weights))
    weights = token_weights(rows, row_weights, rows_per_group, reduction)
    if reduction is LossReduction.DEVICE_BATCH:
        sizes = [len(rows[begin : begin + rows_per_group]) for begin in range(0, len(rows), rows_per_group)]
        weights = weights * np.repeat(sizes, sizes)
    total = float(np.sum(weights * row_weights))
    return StepPlan(rows, total, _deal(rows, weights, units_of(rows), world_size, max_load))


def token_weights(rows: Rows, row_weights: Weights, rows_per_group: int, reduction: LossReduction) -> Weights:
    """What the weight of each token of a row is multiplied with: 1, or one part of its group's mean."""
    if reduction is LossReduction.TOKEN:
        return np.ones(len(rows))
    groups = [rows[begin : begin + rows_per_group] for begin in range(0, len(rows), rows_per_group)]
    return np.repeat([1.0 / row_weights[group].sum() for group in groups], [len(group) for group in groups])


def make_units(
    prefixes: Sequence[tuple[int, int]], lengths: npt.NDArray[np.int64], common: int, max_load: int
) -> list[Unit]:
    """Rows with a long prefix in common form a unit, so that it is computed once.

    Args:
        prefixes: rows in lexicographic order with what each shares with the one before (`layout.common_prefixes`).
        lengths: tokens of each row.
        common: tokens that all rows of the data set begin with; no reason to keep two rows together.
        max_load: no unit grows beyond it.
    """
    units: list[Unit] = []
    for i, shared in prefixes:
        load = int(lengths[i]) - min(common, int(lengths[i]) - 1)  # a row has at least one cell of its own
        if units and shared - common >= _WORTH_SHARING:
            together = units[-1].load + max(0, int(lengths[i]) - shared)
            if together <= max_load:
                units[-1] = Unit((*units[-1].members, i), together)
                continue
        units.append(Unit((i,), load))
    return units


_WORTH_SHARING = 16  # tokens; below that, even loads matter more


def balance(units: Sequence[Unit], num_bins: int) -> list[list[Unit]]:
    """Spread units over bins of about equal load: the largest unit first, each to the bin with the least.

    Its largest bin is at most 4/3 of the best possible (Graham 1969, "Bounds on multiprocessing timing anomalies").
    Some bins are empty where there are fewer units.
    """
    bins: list[list[Unit]] = [[] for _ in range(num_bins)]
    heap = [(0, i) for i in range(num_bins)]
    for unit in sorted(units, key=lambda unit: (-unit.load, unit.members)):
        load, i = heapq.heappop(heap)
        bins[i].append(unit)
        heapq.heappush(heap, (load + unit.load, i))
    return bins


def _load(units: Sequence[Unit]) -> int:
    return sum(unit.load for unit in units)


def _deal(
    rows: Rows, weights: Weights, units: Sequence[Unit], world_size: int, max_load: int
) -> list[list[MicroBatch]]:
    of_ranks = balance(units, world_size)
    count = max(_num_micro_batches(of_rank, max_load) for of_rank in of_ranks)
    # Fewer units than micro-batches: one row of the step, weightless.
    idle = MicroBatch(rows[:1], np.zeros(1))
    dealt = []
    for of_rank in of_ranks:
        # The largest first: what does not fit in memory is found out at once, and the last one is the cheapest.
        parts = sorted((part for part in balance(of_rank, count) if part), key=_load, reverse=True)
        members = [np.array([i for unit in part for i in unit.members]) for part in parts]
        own = [MicroBatch(rows[part], weights[part]) for part in members]
        dealt.append(own + [idle] * (count - len(own)))
    return dealt


def _num_micro_batches(units: Sequence[Unit], max_load: int) -> int:
    count = max(1, min(len(units), -(-_load(units) // max_load)))
    while count < len(units) and max(map(_load, balance(units, count))) > max_load:
        count += 1
    return count


def describe(shape: StepShape, num_rows: int, num_epochs: float, max_steps: int, *, drop_last: bool) -> list[str]:
    """The lines that say how many steps there will be, and what is odd about them."""
    per_epoch = shape.num_steps(num_rows, drop_last=drop_last)
    total = max_steps if max_steps > 0 else int(np.ceil(num_epochs * per_epoch))
    lines: list[str] = [
        Message(
            "steps: {total:,} of {rows_per_step} rows ({rows_per_group} a device x {groups_per_rank} "
            "accumulated x {world_size} process(es)); {per_epoch:,} steps an epoch, {epochs:.2f} epochs",
            total=total,
            rows_per_step=shape.rows_per_step,
            rows_per_group=shape.rows_per_group,
            groups_per_rank=shape.groups_per_rank,
            world_size=shape.world_size,
            per_epoch=per_epoch,
            epochs=total / per_epoch,
        )
    ]
    rest = num_rows % shape.rows_per_step
    if drop_last and rest:
        lines.append(
            Message(
                "  --dataloader_drop_last leaves out {rest} of {num_rows} rows each epoch", rest=rest, num_rows=num_rows
            )
        )
    if num_rows < shape.rows_per_step:
        lines.append(
            Message(
                "  {num_rows} rows are fewer than the {rows_per_step} of one step: every step is a whole "
                "epoch of {num_rows} rows",
                num_rows=num_rows,
                rows_per_step=shape.rows_per_step,
            )
        )
    return lines
