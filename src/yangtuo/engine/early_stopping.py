"""The evaluations of a run: which was the best, and whether as many as the user allows have gained nothing."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from yangtuo.i18n import Message

EXTENDED = "extended"  # the event of log.jsonl at which more steps were asked for


@dataclass(frozen=True)
class EarlyStopping:
    """When a run ends before its last step.

    Attributes:
        patience: evaluations in a row that may pass without a gain; None for any number.
        threshold: a gain is a fall by more than this.
        metric: loss or perplexity, of evaluations.
    """

    patience: int | None = None
    threshold: float = 0.0
    metric: str = "loss"


class EvaluationHistory:
    """What the evaluations so far have given."""

    def __init__(self, rule: EarlyStopping, entries: Iterable[Mapping[str, Any]] = ()):
        """The entries of log.jsonl before, of a run that goes on; from where it was extended, gains count anew."""
        self.rule = rule
        known = list(entries)
        extended = max((i for i, entry in enumerate(known) if entry.get("event") == EXTENDED), default=0)
        before = [entry for entry in known[extended:] if "eval_loss" in entry]
        name = "eval_loss" if rule.metric == "loss" else rule.metric
        self._values = [math.nan if entry.get(name) is None else float(entry[name]) for entry in before]
        losses = [entry["eval_loss"] for entry in known if entry.get("eval_loss") is not None]
        self._best_loss = min(losses, default=math.inf)

    def add(self, metrics: Mapping[str, float]) -> bool:
        """Take an evaluation's metrics; returns whether its loss is the lowest so far. NaN is lower than nothing."""
        self._values.append(metrics[f"eval_{self.rule.metric}"])
        is_best = metrics["eval_loss"] < self._best_loss
        self._best_loss = min(self._best_loss, metrics["eval_loss"]) if is_best else self._best_loss
        return is_best

    def is_over(self) -> bool:
        """Whether as many evaluations as the patience have gained nothing."""
        patience = self.rule.patience
        return patience is not None and patience <= evaluations_without_gain(self._values, self.rule.threshold)

    def why_over(self, step: int, max_steps: int) -> str:
        """For the screen."""
        before = self._values[: -self.rule.patience] if self.rule.patience else self._values
        best = min((value for value in before if not math.isnan(value)), default=math.nan)
        return Message(
            "early stopping after step {step} of {max_steps}: {patience} evaluations in a row have not bettered "
            "the {metric} {best:.4f} before them by more than {threshold:g}; best/ has the adapter of the lowest "
            "loss (--load_best_model_at_end makes the best saved checkpoint the final one)",
            step=step,
            max_steps=max_steps,
            patience=self.rule.patience,
            metric=self.rule.metric,
            best=best,
            threshold=self.rule.threshold,
        )


def evaluations_without_gain(values: Iterable[float], threshold: float) -> int:
    """How many evaluations, the last ones, have not bettered the best before them by more than `threshold`.

    Source: transformers 5.23, EarlyStoppingCallback.check_metric_value, of a metric whose lower values are better.
    """
    best, count = math.inf, 0
    for i, value in enumerate(values):
        count = 0 if i == 0 or best - value > threshold else count + 1
        best = min(best, value) if not math.isnan(value) else best
    return count


def metrics_at(step: int | None, history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The metrics of the last evaluation at a step, by transformers' log history; empty where there was none."""
    found = [entry for entry in history if "eval_loss" in entry and entry["step"] == step]
    return {name: value for name, value in found[-1].items() if name.startswith("eval_")} if found else {}
