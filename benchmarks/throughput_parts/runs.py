"""What a contender did in each step, all runs of a comparison, and whether the contenders did the same work."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from throughput_parts.settings import is_packed
from throughput_parts.work import ModelShape, Row, plan_steps, useful_flop

LOSS_TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}  # relative, of the first step


@dataclass(frozen=True)
class Run:
    """One contender, once. Lists have one value for each step, the warm-up included; `peak_device_bytes` is CUDA's.

    `loop_seconds` is `train_runtime` of transformers: all steps, and what lies between them.
    """

    step_seconds: list[float]
    rows: list[int]
    tokens: list[int]
    supervised_tokens: list[int]
    losses: list[float]
    loop_seconds: float
    peak_device_bytes: int | None = None
    peak_resident_bytes: int = 0

    @property
    def num_warm_up(self) -> int:
        """Steps left out of the rates: the first pays for memory, threads and caches, unless it is the only one."""
        return 1 if len(self.step_seconds) > 1 else 0

    def per_second(self, counts: Sequence[float]) -> float:
        """Rate of what is counted for each step."""
        return sum(counts[self.num_warm_up :]) / sum(self.step_seconds[self.num_warm_up :])


@dataclass
class Comparison:
    """All that is known of a run of this program; a contender's entry of a round is a `Run`, or why it has none."""

    contenders: list[str]
    rows: list[Row]
    batch: int
    num_steps: int
    machine: dict[str, Any]
    matmul_flop_per_s: list[float] = field(default_factory=list)
    rounds: list[dict[str, Run | str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def plan(self) -> list[list[Row]]:
        """The rows of each step."""
        return plan_steps(self.rows, self.batch, self.num_steps)

    @property
    def shape(self) -> ModelShape:
        """The model's."""
        return ModelShape(**self.machine["shape"])


def check_work(run: Run, plan: Sequence[Sequence[Row]], *, packed_rows: Sequence[Row] | None = None) -> str | None:
    """What shows that a contender did other work than planned; None where it did the same.

    With `packed_rows` the steps are the contender's own, and what is measured has to be whole epochs of those rows.
    """
    if packed_rows is not None:
        measured = slice(run.num_warm_up, None)
        num_epochs, rest = divmod(sum(run.rows[measured]), len(packed_rows))
        per_epoch = [sum(len(row.input_ids) for row in packed_rows), sum(row.num_supervised for row in packed_rows)]
        found = [sum(run.tokens[measured]), sum(run.supervised_tokens[measured])]
        same = rest == 0 and found == [num_epochs * count for count in per_epoch]
        return None if same else f"trained on {sum(run.rows[measured])} rows, {found[0]} tokens: no whole epochs"
    planned = [
        (len(rows), sum(len(row.input_ids) for row in rows), sum(row.num_supervised for row in rows)) for rows in plan
    ]
    done = list(zip(run.rows, run.tokens, run.supervised_tokens, strict=True))
    if done == planned:
        return None
    return f"(rows, tokens, supervised tokens) of its steps are {done[:3]}, planned {planned[:3]}"


def flop_per_second(run: Run, comparison: Comparison, *, packed: bool) -> float:
    """Useful FLOP/s; of a packed run, whose steps are others, the work of the planned steps for as many epochs."""
    if packed:
        epoch = plan_steps(comparison.rows, comparison.batch, -(-len(comparison.rows) // comparison.batch))
        flop_per_row = sum(useful_flop(rows, comparison.shape) for rows in epoch) / len(comparison.rows)
        return run.per_second([flop_per_row * rows for rows in run.rows])
    return run.per_second([useful_flop(rows, comparison.shape) for rows in comparison.plan])


def different_losses(runs: dict[str, Run | str], dtype: str) -> str | None:
    """Whether the first step's losses disagree, in words.

    LoRA begins as zero, so the first loss shows neither dropout nor learning: same ids, same weights, same loss.
    """
    losses = {name: run.losses[0] for name, run in runs.items() if isinstance(run, Run) and not is_packed(name)}
    if not losses or max(losses.values()) - min(losses.values()) <= LOSS_TOLERANCE[dtype] * max(losses.values()):
        return None
    return "the first step's losses differ: " + ", ".join(f"{name} {loss:.5f}" for name, loss in losses.items())
