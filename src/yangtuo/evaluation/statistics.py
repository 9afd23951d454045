"""What a measure over n items shows: estimates with 95 % intervals, and differences of two models on the same items.

Items that share a text (several questions on one passage, several turns of one dialogue) are a cluster: they are not
independent, and count as less than their number. The formulas are those of Miller, "Adding Error Bars to Evals"
(https://arxiv.org/abs/2411.00640), unless a function names another source.

Where the items show nothing on how far off an estimate may be, its interval is from minus to plus infinity: fewer
than two clusters, values that are not finite, and values that are all equal, since an interval of no width would
claim certainty. Shares of yes and no have formulas of their own, which know an interval in that case too.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from yangtuo.evaluation.quantiles import t_quantile, wilson

CONFIDENCE, POWER = 0.95, 0.80
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
_Z_POWER = NormalDist().inv_cdf(POWER)
_EQUAL = 1e-12  # relative: values that differ by less differ by the rounding of float64

Values = NDArray[np.float64]
Clusters = Sequence[Hashable] | None


@dataclass(frozen=True)
class Estimate:
    """A mean, a share or a ratio, with its 95 % interval.

    Attributes:
        value: NaN where there is no item.
        low: lower end; minus infinity where the items do not tell.
        high: upper end; plus infinity where the items do not tell.
        n: number of items.
        num_clusters: number of groups of items that are independent of each other.
    """

    value: float
    low: float
    high: float
    n: int
    num_clusters: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends; None where the items do not tell."""
        return _interval(self.low, self.high)


@dataclass(frozen=True)
class Difference:
    """The second model minus the first on the same items, with its 95 % interval.

    Attributes:
        estimate: mean of the differences; NaN where there is no item.
        low: lower end; minus infinity where the items do not tell.
        high: upper end; plus infinity where the items do not tell.
        smallest: the smallest true difference that so many items, spread as these are, show in 80 of 100 tries.
        n: number of items.
        num_clusters: number of groups of items that are independent of each other.
    """

    estimate: float
    low: float
    high: float
    smallest: float
    n: int
    num_clusters: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends; None where the items do not tell."""
        return _interval(self.low, self.high)

    def is_better(self, sign: int) -> bool:
        """Whether the second model is shown to be better; `sign` is 1 where higher is better, -1 where lower is."""
        return self.low > 0 if sign > 0 else self.high < 0

    def is_worse(self, sign: int) -> bool:
        """Whether the second model is shown to be worse; `sign` as in `is_better`."""
        return self.is_better(-sign)


def mean(values: ArrayLike, clusters: Clusters = None) -> Estimate:
    """The mean of a measure with a value an item, such as a score from 0 to 100.

    Args:
        values: [n], one an item.
        clusters: [n], equal for items that share a text; None where no two do.

    Raises:
        ValueError: not as many clusters as values.
    """
    found = _vector(values)
    groups = _groups(clusters, len(found))
    with np.errstate(invalid="ignore"):
        residuals = found - _mean(found)
    return _estimate(_mean(found), residuals, groups, float(np.abs(found).max(initial=0.0)))


def share(is_hit: ArrayLike, clusters: Clusters = None) -> Estimate:
    """The share of items with a yes: Wilson's interval, which is no point where all items are equal.

    With clusters, n is divided by what they cost (the ratio of clustered to plain variance, at least 1), and the t
    quantile takes the place of the normal one. Where all items are equal the cost cannot be seen: then each cluster
    counts as one item.

    Args:
        is_hit: [n], True or 1 for yes, False or 0 for no.
        clusters: see `mean`.

    Raises:
        ValueError: another value than these, or not as many clusters as values.
    """
    found = _yes_or_no(is_hit)
    n, groups = len(found), _groups(clusters, len(found))
    num_clusters = _num_groups(groups)
    if n == 0:
        return Estimate(math.nan, 0.0, 1.0, 0, 0)
    p, quantile, effective = float(found.mean()), _Z, float(n)
    if num_clusters < n:
        if num_clusters < 2:
            return Estimate(p, 0.0, 1.0, n, num_clusters)
        quantile, effective = t_quantile(CONFIDENCE, num_clusters - 1), float(num_clusters)
        if 0 < p < 1:
            cost = _standard_error(found - p, groups) ** 2 / (p * (1 - p) / (n - 1))
            effective = n / max(1.0, cost)
    low, high = wilson(p, effective, quantile)
    return Estimate(p, low, high, n, num_clusters)


def ratio(sums: ArrayLike, weights: ArrayLike, clusters: Clusters = None) -> Estimate:
    """A sum over a sum, such as the loss of all tokens over their number; rows of more tokens count for more.

    Rows without weight are left out. The standard error is the linearised one: that of the mean of
    (sum - ratio x weight) / mean weight.

    Args:
        sums: [n], of a row, such as nats.
        weights: [n], of a row, such as tokens; not negative.
        clusters: see `mean`.

    Raises:
        ValueError: a negative weight, or not as many weights or clusters as sums.

    Source: Cochran, "Sampling Techniques" (1977), section 2.11.
    """
    above, below = _vector(sums), _vector(weights)
    _check_weights(above, below)
    return _ratio(above, below, _groups(clusters, len(above)), np.abs(above))


def paired(before: ArrayLike, after: ArrayLike, clusters: Clusters = None) -> Difference:
    """What the second model gains on the first, item by item: most of what makes an item hard or easy falls out.

    Args:
        before: [n], of the first model.
        after: [n], of the second model on the same items.
        clusters: see `mean`.
    """
    old, new = _two(before, after)
    return _paired(old, new, np.ones(len(old)), clusters)


def paired_ratio(before: ArrayLike, after: ArrayLike, weights: ArrayLike, clusters: Clusters = None) -> Difference:
    """The same for ratios with one denominator, such as losses of two models on the same tokens.

    Args:
        before: [n], sums of a row, of the first model.
        after: [n], of the second.
        weights: [n], such as tokens of a row, which both models have; not negative.
        clusters: see `mean`.

    Raises:
        ValueError: see `ratio`.
    """
    old, new = _two(before, after)
    return _paired(old, new, _vector(weights), clusters)


def paired_share(before: ArrayLike, after: ArrayLike, clusters: Clusters = None) -> Difference:
    """What the second model gains in a share of yes and no, from the items on which the two differ.

    The interval is computed with two items more, one that each model alone has right, so that few differing items
    claim no more than they show. Where none differs it is the rule of three: plus and minus 3 / (number of clusters).

    Args:
        before: [n], True or 1 for yes, of the first model.
        after: [n], of the second model on the same items.
        clusters: see `mean`.

    Raises:
        ValueError: a value that is neither yes nor no, or not as many of one as of the other, or clusters.

    Source: Bonett and Price, "Adjusted Wald Confidence Interval for a Difference of Binomial Proportions Based on
    Paired Data" (2012); Hanley and Lippman-Hand, "If Nothing Goes Wrong, Is Everything All Right?" (1983).
    """
    old, new = _two(_yes_or_no(before), _yes_or_no(after))
    n, groups = len(old), _groups(clusters, len(old))
    num_clusters, differences = _num_groups(groups), new - old
    if num_clusters < 2:
        return Difference(_mean(differences), -1.0, 1.0, math.inf, n, num_clusters)
    if not differences.any():
        most = min(1.0, 3 / num_clusters)
        return Difference(0.0, -most, most, smallest_difference(num_clusters, most), n, num_clusters)
    more = np.append(differences, [1.0, -1.0])
    apart = np.append(groups, [num_clusters, num_clusters + 1])
    wide = _estimate(_mean(more), more - _mean(more), apart, 1.0)
    error = _standard_error(more - _mean(more), apart)
    low, high = max(-1.0, wide.low), min(1.0, wide.high)
    return Difference(_mean(differences), low, high, _smallest(error, num_clusters - 1), n, num_clusters)


def smallest_difference(n: int, discordant: float) -> float:
    """For planning: the smallest difference of two shares that n items show with 80 % power at 5 %.

    It is 2.8 x sqrt(discordant / n), 2.8 being the sum of the normal quantiles of 97.5 % and 80 %.

    Args:
        n: number of independent items.
        discordant: share of the items on which one model is right and the other is not, from 0 to 1.

    Raises:
        ValueError: a share that is none.
    """
    if not 0 <= discordant <= 1:
        raise ValueError(f"a share of {discordant}; it is from 0 to 1")
    return (_Z + _Z_POWER) * math.sqrt(discordant / n) if n > 0 else math.inf


def _standard_error(residuals: Values, groups: NDArray[np.int64]) -> float:
    """Of the mean of what has these residuals, [n]; Miller's formula (4), which is that of the CLT without clusters.

    SE^2 = sum r^2 / (n (n - 1)) + (sum over clusters of (sum r)^2 - sum r^2) / n^2.
    """
    n = len(residuals)
    squares = float((residuals**2).sum())
    of_groups = float((np.bincount(groups, weights=residuals) ** 2).sum())
    return math.sqrt(squares / (n * (n - 1)) + (of_groups - squares) / n**2)


def _estimate(value: float, residuals: Values, groups: NDArray[np.int64], size: float) -> Estimate:
    """`residuals` have a mean of zero; `size` is that of the values, beside which rounding is seen."""
    n, num_clusters = len(residuals), _num_groups(groups)
    if num_clusters < 2 or not np.isfinite(residuals).all() or float(np.abs(residuals).max()) <= _EQUAL * size:
        return Estimate(value, -math.inf, math.inf, n, num_clusters)
    half = t_quantile(CONFIDENCE, num_clusters - 1) * _standard_error(residuals, groups)
    return Estimate(value, value - half, value + half, n, num_clusters)


def _ratio(above: Values, below: Values, groups: NDArray[np.int64], sizes: Values) -> Estimate:
    """`sizes` are those of the sums, beside which rounding is seen."""
    counts = below != 0  # a NaN counts
    above, below, groups, sizes = above[counts], below[counts], groups[counts], sizes[counts]
    if not len(above):
        return Estimate(math.nan, -math.inf, math.inf, 0, 0)
    with np.errstate(invalid="ignore"):
        value = float(above.sum() / below.sum())
        residuals = (above - value * below) / below.mean()
    return _estimate(value, residuals, groups, float(sizes.max() / below.mean()))


def _paired(old: Values, new: Values, weights: Values, clusters: Clusters) -> Difference:
    _check_weights(new, weights)
    groups, sizes = _groups(clusters, len(old)), np.maximum(np.abs(old), np.abs(new))
    with np.errstate(invalid="ignore"):
        found = _ratio(new - old, weights, groups, sizes)
    smallest = math.inf
    if found.interval:
        degrees = found.num_clusters - 1
        smallest = _smallest((found.high - found.low) / 2 / t_quantile(CONFIDENCE, degrees), degrees)
    return Difference(found.value, found.low, found.high, smallest, found.n, found.num_clusters)


def _check_weights(sums: Values, weights: Values) -> None:
    if len(sums) != len(weights) or (weights < 0).any():
        raise ValueError(f"{len(sums)} sums, {len(weights)} weights; as many are needed, and none may be negative")


def _smallest(error: float, degrees: int) -> float:
    return error * (t_quantile(CONFIDENCE, degrees) + t_quantile(2 * POWER - 1, degrees))


def _vector(values: ArrayLike) -> Values:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1:
        raise ValueError(f"values of shape {list(found.shape)}; one an item is needed, [n]")
    return found


def _two(before: ArrayLike, after: ArrayLike) -> tuple[Values, Values]:
    old, new = _vector(before), _vector(after)
    if len(old) != len(new):
        raise ValueError(f"{len(old)} values of one model and {len(new)} of the other; both need one an item")
    return old, new


def _yes_or_no(values: ArrayLike) -> Values:
    found = _vector(values)
    if not np.isin(found, (0.0, 1.0)).all():
        raise ValueError("a share has items of yes (1) and no (0) only; take `mean` for others")
    return found


def _groups(clusters: Clusters, n: int) -> NDArray[np.int64]:
    """A number for each item, equal for those of one cluster, counted from 0."""
    if clusters is None:
        return np.arange(n)
    if len(clusters) != n:
        raise ValueError(f"{len(clusters)} clusters for {n} items; one an item is needed")
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters], dtype=np.int64)


def _num_groups(groups: NDArray[np.int64]) -> int:
    return len(np.unique(groups))


def _mean(values: Values) -> float:
    with np.errstate(invalid="ignore"):
        return float(values.mean()) if len(values) else math.nan


def _interval(low: float, high: float) -> tuple[float, float] | None:
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None
