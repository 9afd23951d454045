"""A run's recipe, and its steps as one rank sees them: what the trainer is fed."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from yangtuo.config.choices import DataOrder, LossReduction
from yangtuo.data.examples import Examples
from yangtuo.engine.layout import Layout, common_prefixes, pad, share
from yangtuo.engine.planning import (
    Rows,
    StepPlan,
    StepShape,
    Unit,
    make_units,
    plan_evaluation,
    plan_step,
    rows_in_order,
    rows_of_epoch,
    step_rows,
)

_LARGEST_EXPONENT = 700  # exp of more is no float64


@dataclass(frozen=True)
class Recipe:
    """The options that decide the result of a run, independent of batching and hardware.

    Attributes:
        shape: rows of a step.
        reduction: how the loss is averaged.
        order: shuffled or sequential.
        order_seed: seed of the shuffling, and of the rows that `mix` draws.
        drop_last: leave out the short last step of an epoch.
        label_smoothing: of the training loss.
        neftune_noise_alpha: noise on the embeddings in training; None for none.
        eval_rows: rows of a group, for `LossReduction.DEVICE_BATCH` in evaluation.
        mix: for each file of the data set, how often an epoch has its rows; None for each row once.
        loraplus_lr_ratio: learning rate of LoRA's B as a multiple of A's; None for the same.
    """

    shape: StepShape
    reduction: LossReduction
    order: DataOrder
    order_seed: int
    drop_last: bool
    label_smoothing: float
    neftune_noise_alpha: float | None
    eval_rows: int
    mix: tuple[float, ...] | None = None
    loraplus_lr_ratio: float | None = None


@dataclass(frozen=True)
class Execution:
    """How a step is cut into micro-batches; changes no result beyond float rounding.

    Attributes:
        shares_prefixes: lay rows out as a prefix tree, else on padded lines.
        max_cells: most cells of a micro-batch; a row that is longer is one by itself.
        is_auto: `max_cells` is an estimate, and may be replaced by a measurement.
        may_checkpoint: gradient checkpointing may be turned on where the longest row would not fit otherwise.
        compiles: each decoder layer is a compiled graph.
    """

    shares_prefixes: bool
    max_cells: int
    is_auto: bool = False
    may_checkpoint: bool = False
    compiles: bool = False

    def halved(self) -> "Execution":
        """After running out of memory."""
        return replace(self, max_cells=max(1, self.max_cells // 2))


@dataclass(frozen=True)
class Step:
    """A step's plan and one rank's share of it, laid out."""

    execution: Execution
    plan: StepPlan
    layouts: list[Layout]


class Planner:
    """Plans steps and evaluations of one data set under an execution, and lays them out."""

    def __init__(self, examples: Examples):
        self.examples = examples
        self.num_tokens, self.num_supervised = examples.lengths(), examples.num_supervised()  # of each row
        self.row_weights = examples.total_weights()
        self.common = examples.common_prefix()

    def step(self, rows: Rows, recipe: Recipe, execution: Execution) -> StepPlan:
        """Plan a step of these rows."""
        units_of, most = self._units_of(execution, recipe.shape.world_size)
        return plan_step(rows, recipe.shape, self.row_weights, recipe.reduction, units_of, most)

    def evaluation(self, recipe: Recipe, execution: Execution) -> StepPlan:
        """Plan an evaluation over all rows."""
        units_of, most = self._units_of(execution, recipe.shape.world_size)
        return plan_evaluation(
            self.row_weights, recipe.eval_rows, recipe.shape.world_size, recipe.reduction, units_of, most
        )

    def lay_out(self, plan: StepPlan, rank: int, execution: Execution) -> Iterator[Layout]:
        """Arrays of a rank's micro-batches."""
        lay_out = share if execution.shares_prefixes else pad
        for batches in zip(*plan.micro_batches, strict=True):  # the same one of all ranks
            most = max(int(self.num_supervised[batch.rows].sum()) for batch in batches)
            own = batches[rank]
            yield replace(lay_out(self.examples, own.rows, own.weights), most_predictions=most)

    def sizes_of(self, step: Step) -> dict[str, float]:
        """What a step was, for log.jsonl; what is saved is measured against this rank's share on padded lines."""
        rows, layouts, shares = step.plan.rows, step.layouts, step.execution.shares_prefixes
        own_tokens = sum(layout.num_tokens for layout in layouts)
        padded = sum(len(layout.rows) * int(layout.row_lengths.max()) for layout in layouts)
        cells = sum(layout.num_cells for layout in layouts)
        return {
            "num_tokens": int(self.num_tokens[rows].sum()),
            "num_supervised_tokens": int(self.num_supervised[rows].sum()),
            "rows": len(rows),
            "micro_batches": len(layouts),
            "padding_saved": 1 - own_tokens / padded if shares else 0.0,
            "prefix_saved": 1 - cells / own_tokens if shares else 0.0,
        }

    def metrics(self, mean_loss: float, seconds: float, prefix: str) -> dict[str, float]:
        """Those of an evaluation, named as transformers names them; the loss in nats a token."""
        return {
            f"{prefix}_loss": mean_loss,
            f"{prefix}_perplexity": math.exp(mean_loss) if mean_loss < _LARGEST_EXPONENT else math.inf,
            f"{prefix}_rows": len(self.examples),
            f"{prefix}_tokens": int(self.num_supervised.sum()),
            f"{prefix}_runtime": seconds,
        }

    def _units_of(self, execution: Execution, num_ranks: int) -> tuple[Callable[[Rows], list[Unit]], int]:
        def of_tree(rows: Rows) -> list[Unit]:
            prefixes = common_prefixes([self.examples.row(int(row))[0] for row in rows])
            lengths = self.num_tokens[rows]
            # A unit larger than a rank's even share would cost more by its load than its prefix saves.
            even = -(-int(sum(lengths[i] - shared for i, shared in prefixes)) // num_ranks)
            return make_units(prefixes, lengths, self.common, min(most, even))

        def of_lines(rows: Rows) -> list[Unit]:
            longest = int(self.num_tokens[rows].max())
            return [Unit((i,), longest) for i in range(len(rows))]

        if not execution.shares_prefixes:
            return of_lines, execution.max_cells
        most = max(1, execution.max_cells - self.common)  # each micro-batch has the common prefix once
        return of_tree, most


class Steps(Dataset[Step]):
    """The steps of an epoch as one rank sees them; `epoch` and `execution` are set as the run goes on."""

    def __init__(self, examples: Examples, recipe: Recipe, execution: Execution, rank: int):
        """`execution.shares_prefixes` is a wish: the model is tried before the first step."""
        self.epoch, self.execution, self.planner = 0, execution, Planner(examples)
        self.examples, self.recipe, self._rank = examples, recipe, rank
        self._order: tuple[int, Rows] = (-1, np.zeros(0, dtype=np.int64))

    def __len__(self) -> int:
        rows = rows_of_epoch(self.examples, self.recipe.mix, 0, self.recipe.order_seed)
        return self.recipe.shape.num_steps(len(rows), drop_last=self.recipe.drop_last)

    def __getitem__(self, number: int) -> Step:
        if self._order[0] != self.epoch:
            self._order = (self.epoch, self._ordered(self.epoch))
        return self._lay_out(step_rows(self._order[1], number, self.recipe.shape))

    def loader(self, num_workers: int, prefetch_factor: int | None, context: str | None) -> DataLoader[dict[str, Step]]:
        """The steps one after another, laid out by processes of their own where `num_workers` says so."""
        loader: DataLoader[Any] = DataLoader(
            self,
            batch_size=1,
            collate_fn=_as_batch,
            num_workers=num_workers,
            prefetch_factor=prefetch_factor,
            multiprocessing_context=context if num_workers else None,
        )
        return loader

    def spread(self, num_steps: int, num_rows: int) -> Examples:
        """At most so many of the rows of the first steps, or of the first epoch, evenly spread over them."""
        rows = self._ordered(0)[: min(num_steps, len(self)) * self.recipe.shape.rows_per_step]
        return self.examples.take(rows[np.unique(np.linspace(0, len(rows) - 1, num_rows).astype(int))])

    def _ordered(self, epoch: int) -> Rows:
        recipe = self.recipe
        return rows_in_order(self.examples, recipe.mix, epoch, recipe.order_seed, recipe.order)

    def again(self, step: Step) -> Step:
        """The same step under the execution of now, where that is another."""
        return step if step.execution == self.execution else self._lay_out(step.plan.rows)

    def _lay_out(self, rows: Rows) -> Step:
        plan = self.planner.step(rows, self.recipe, self.execution)
        return Step(self.execution, plan, list(self.planner.lay_out(plan, self._rank, self.execution)))


def _as_batch(steps: list[Step]) -> dict[str, Step]:
    """The Trainer looks for keys in a batch."""
    return {"step": steps[0]}
