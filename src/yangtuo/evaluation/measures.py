"""One figure of one or several models on the same items, with what so many items show. Pure.

The first model is what the others are compared with, item by item.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from yangtuo.evaluation import statistics
from yangtuo.evaluation.comparison import Better, Comparison
from yangtuo.evaluation.statistics import Difference, Estimate

Clusters = Sequence[Any] | None
Values = Mapping[str, Sequence[float]]

_LARGEST_EXPONENT = 700  # exp of more is no float64


@dataclass(frozen=True)
class Measure:
    """See `results.json` in docs/evaluation.md.

    Attributes:
        name: "own/loss", "probe/zh/facts", ...
        unit: of the values; "share" for 0 to 1, "%" for 0 to 100.
        better: which values are the better ones; None where neither is.
        n: items.
        estimates: by the model's name, in order.
        differences: of each but the first model, that one minus the first; none where items cannot be compared.
    """

    name: str
    unit: str
    better: Better
    n: int
    estimates: Mapping[str, Estimate]
    differences: Mapping[str, Difference]
    is_detail: bool = False  # a part of many, which the table on the screen leaves out

    def compared(self, base: str, tuned: str) -> Comparison:
        """Two of the models, as the verdict looks at them."""
        values = self.estimates[base].value, self.estimates[tuned].value
        return Comparison(self.name, self.unit, self.better, self.n, *values, self.differences.get(tuned))

    def exponential(self, name: str) -> "Measure":
        """Perplexity of a loss in nats a token: no mean, so that it has no difference with an interval of its own."""
        estimates = {
            model: replace(one, value=_exp(one.value), low=_exp(one.low), high=_exp(one.high))
            for model, one in self.estimates.items()
        }
        return Measure(name, "", self.better, self.n, estimates, {})

    def as_json(self) -> dict[str, Any]:
        """As `results.json` has it; what is not finite is null."""
        differences = {name: _difference(one) for name, one in self.differences.items()}
        names = list(self.estimates)
        between, last = {"between": [names[0], names[-1]]}, names[-1]
        return {
            "name": self.name,
            "unit": self.unit,
            "better": self.better,
            "n": self.n,
            "clusters": min((one.num_clusters for one in self.estimates.values()), default=0),
            "values": {name: _finite(one.value) for name, one in self.estimates.items()},
            "intervals": {name: one.interval and list(one.interval) for name, one in self.estimates.items()},
            "difference": between | differences[last] if last in differences else None,
            "differences": differences,
        }


def of_shares(
    name: str,
    hits: Mapping[str, Sequence[bool]],
    better: Better,
    clusters: Clusters = None,
    *,
    is_detail: bool = False,
) -> Measure:
    """Share of items with a yes, [n] for each model."""
    estimates = {model: statistics.share(own, clusters) for model, own in hits.items()}
    first, *others = hits
    differences = {model: statistics.paired_share(hits[first], hits[model], clusters) for model in others}
    return Measure(name, "share", better, len(hits[first]), estimates, differences, is_detail)


def of_means(name: str, unit: str, values: Values, better: Better, clusters: Clusters = None) -> Measure:
    """Mean of a value an item, [n] for each model."""
    estimates = {model: statistics.mean(own, clusters) for model, own in values.items()}
    first, *others = values
    differences = {model: statistics.paired(values[first], values[model], clusters) for model in others}
    return Measure(name, unit, better, len(values[first]), estimates, differences)


def of_ratios(
    name: str, unit: str, sums: Values, weights: Values, better: Better, clusters: Clusters = None
) -> Measure:
    """Sum over sum, as the loss of all tokens by their number, [n] each; compared where the weights are the same."""
    estimates = {model: statistics.ratio(own, weights[model], clusters) for model, own in sums.items()}
    first, *others = sums
    differences = {
        model: statistics.paired_ratio(sums[first], sums[model], weights[first], clusters)
        for model in others
        if np.array_equal(weights[first], weights[model])
    }
    return Measure(name, unit, better, len(sums[first]), estimates, differences)


def of_all(name: str, unit: str, values: Mapping[str, float], better: Better, n: int) -> Measure:
    """A score of all items together that is no mean of theirs, such as BLEU: without an interval."""
    estimates = {model: Estimate(value, -math.inf, math.inf, n, n) for model, value in values.items()}
    return Measure(name, unit, better, n, estimates, {})


def _difference(found: Difference) -> dict[str, Any]:
    low, high = found.interval or (None, None)
    return {
        "estimate": _finite(found.estimate),
        "low": low,
        "high": high,
        "smallest": _finite(found.smallest),
    }


def _exp(value: float) -> float:
    return math.exp(value) if value < _LARGEST_EXPONENT else math.inf


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
