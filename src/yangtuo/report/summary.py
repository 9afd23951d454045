"""The key figures of a run, for the top of its page and for a column among several."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from yangtuo.report.facts import RunFacts
from yangtuo.report.series import Series
from yangtuo.report.verdict import Verdict, verdict_of

_ENDS = 5  # steps at each end whose losses are averaged: one step's rows say little


@dataclass(frozen=True)
class Summary:
    """Key figures; None where a run has none.

    Attributes:
        num_ends: steps that the two losses are means of.
        loss_first: of the first steps, in nats a token.
        loss_last: of the last steps.
        eval_first: the first evaluation's loss.
        eval_last: the last one's.
        eval_best: the lowest.
        eval_best_step: its step.
        tokens_per_s: the median of the steps.
    """

    num_ends: int
    loss_first: float | None
    loss_last: float | None
    eval_first: float | None
    eval_last: float | None
    eval_best: float | None
    eval_best_step: int | None
    tokens_per_s: float | None


def summary_of(run: RunFacts) -> Summary:
    """The figures of a run's log."""
    losses, evaluations = run.log.curves["loss"].values(), run.log.curves["eval_loss"]
    number = min(_ENDS, max(1, len(losses) // 2))
    best = _lowest(evaluations)
    values, speeds = evaluations.values(), run.log.curves["tokens_per_s"].values()
    return Summary(
        num_ends=number,
        loss_first=statistics.fmean(losses[:number]) if losses else None,
        loss_last=statistics.fmean(losses[-number:]) if losses else None,
        eval_first=values[0] if values else None,
        eval_last=values[-1] if values else None,
        eval_best=best[1] if best else None,
        eval_best_step=int(best[0]) if best else None,
        tokens_per_s=statistics.median(speeds) if speeds else None,
    )


def _lowest(series: Series) -> tuple[float, float] | None:
    known = [(x, y) for x, y in zip(series.x, series.y, strict=True) if y is not None]
    return min(known, key=lambda point: point[1]) if known else None


@dataclass(frozen=True)
class Column:
    """A run among several."""

    run: RunFacts
    verdict: Verdict
    summary: Summary


def columns_of(runs: Sequence[RunFacts]) -> list[Column]:
    """Each run with its verdict and figures."""
    return [Column(run, verdict_of(run), summary_of(run)) for run in runs]
