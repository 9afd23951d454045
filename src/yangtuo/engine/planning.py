"""Which examples form a step, who computes them, and how much each of their tokens counts. Pure: values in, values out.

A step is `rows_per_group x groups_per_rank x world size` rows in epoch order; the last step of an epoch is short and
nothing carries over. A plan is a function of (order, step, world size) alone, so every rank knows all of it, and all
ranks run the same number of micro-batches: one without rows of its own runs some of weight zero.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from yangtuo.arguments import DataOrder, LossReduction

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
    """Rows of one forward and backward, and the weight of each supervised token of a row."""

    rows: Rows
    weights: Weights


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


def epoch_order(num_rows: int, epoch: int, seed: int, order: DataOrder) -> Rows:
    """The order of an epoch; numpy's PCG64 keeps it the same on every platform."""
    if order is DataOrder.SEQUENTIAL:
        return np.arange(num_rows)
    return np.random.default_rng([seed, epoch]).permutation(num_rows)


def plan_step(
    order: Rows, step: int, shape: StepShape, num_supervised: npt.NDArray[np.int64], reduction: LossReduction
) -> StepPlan:
    """Plan step `step` of an epoch.

    Args:
        order: the epoch's rows.
        step: 0-based step of the epoch.
        shape: rows of a step.
        num_supervised: supervised tokens of every row of the data set.
        reduction: how the loss is averaged.
    """
    begin = step * shape.rows_per_step
    rows = order[begin : begin + shape.rows_per_step]
    weights = token_weights(rows, num_supervised, shape.rows_per_group, reduction)
    total = float(np.sum(weights * num_supervised[rows]))
    return StepPlan(rows, total, _deal(_cut(rows, weights, shape.rows_per_group), shape.world_size))


def plan_evaluation(
    num_supervised: npt.NDArray[np.int64], rows_per_group: int, world_size: int, reduction: LossReduction
) -> StepPlan:
    """Plan an evaluation: every row once, whatever the number of ranks.

    With `LossReduction.DEVICE_BATCH` a group's mean counts by its rows, as the 2023 script's evaluation does.
    """
    rows = np.arange(len(num_supervised))
    weights = token_weights(rows, num_supervised, rows_per_group, reduction)
    if reduction is LossReduction.DEVICE_BATCH:
        sizes = [len(rows[begin : begin + rows_per_group]) for begin in range(0, len(rows), rows_per_group)]
        weights = weights * np.repeat(sizes, sizes)
    total = float(np.sum(weights * num_supervised))
    return StepPlan(rows, total, _deal(_cut(rows, weights, rows_per_group), world_size))


def token_weights(
    rows: Rows, num_supervised: npt.NDArray[np.int64], rows_per_group: int, reduction: LossReduction
) -> Weights:
    """Weight of each supervised token of each row: 1, or one part of its group's mean."""
    if reduction is LossReduction.TOKEN:
        return np.ones(len(rows))
    groups = [rows[begin : begin + rows_per_group] for begin in range(0, len(rows), rows_per_group)]
    return np.repeat([1.0 / num_supervised[group].sum() for group in groups], [len(group) for group in groups])


def _cut(rows: Rows, weights: Weights, size: int) -> list[MicroBatch]:
    return [
        MicroBatch(rows[begin : begin + size], weights[begin : begin + size]) for begin in range(0, len(rows), size)
    ]


def _deal(groups: list[MicroBatch], world_size: int) -> list[list[MicroBatch]]:
    per_rank = -(-len(groups) // world_size)
    # A rank with fewer groups than the others runs one row of the first group, weightless.
    idle = MicroBatch(groups[0].rows[:1], np.zeros(1))
    dealt = [groups[rank::world_size] for rank in range(world_size)]
    return [own + [idle] * (per_rank - len(own)) for own in dealt]


def describe(shape: StepShape, num_rows: int, num_epochs: float, max_steps: int, *, drop_last: bool) -> list[str]:
    """The lines that say how many steps there will be, and what is odd about them."""
    per_epoch = shape.num_steps(num_rows, drop_last=drop_last)
    total = max_steps if max_steps > 0 else int(np.ceil(num_epochs * per_epoch))
    lines = [
        f"steps: {total:,} of {shape.rows_per_step} rows ({shape.rows_per_group} a device x "
        f"{shape.groups_per_rank} accumulated x {shape.world_size} process(es)); {per_epoch:,} steps an epoch, "
        f"{total / per_epoch:.2f} epochs"
    ]
    rest = num_rows % shape.rows_per_step
    if drop_last and rest:
        lines.append(f"  --dataloader_drop_last leaves out {rest} of {num_rows} rows each epoch")
    if num_rows < shape.rows_per_step:
        lines.append(
            f"  {num_rows} rows are fewer than the {shape.rows_per_step} of one step: every step is a whole epoch of "
            f"{num_rows} rows"
        )
    return lines
