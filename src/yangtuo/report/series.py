"""Curves as points: decimated so that every spike stays, and smoothed. Pure functions of values."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Series:
    """Points of a curve.

    Attributes:
        x: strictly rising.
        y: as many; None where the value was no finite number.
    """

    x: tuple[float, ...] = ()
    y: tuple[float | None, ...] = ()

    def __bool__(self) -> bool:
        return any(value is not None for value in self.y)

    def values(self) -> list[float]:
        """The values that are numbers, in order."""
        return [value for value in self.y if value is not None]


def decimate(series: Series, num_buckets: int) -> Series:
    """At most 3 points for each of equally wide ranges of x, and the two ends: the lowest, the highest, one gap.

    As wide as a pixel, such a range looks as if all its points were drawn. Points keep their order and their values.
    A series that is not longer than 2 points a bucket stays as it is.

    Args:
        series: the points.
        num_buckets: how many ranges, at least 1.
    """
    if len(series.x) <= 2 * num_buckets:
        return series
    first, last = series.x[0], series.x[-1]
    width = (last - first) / num_buckets
    kept = {0, len(series.x) - 1}
    for places in _buckets(series.x, first, width):
        seen = [i for i in places if series.y[i] is not None]
        if seen:
            kept |= {min(seen, key=lambda i: series.y[i] or 0.0), max(seen, key=lambda i: series.y[i] or 0.0)}
        kept |= set([i for i in places if series.y[i] is None][:1])
    order = sorted(kept)
    return Series(tuple(series.x[i] for i in order), tuple(series.y[i] for i in order))


def _buckets(x: Sequence[float], first: float, width: float) -> Iterator[range]:
    """The indices of each range of x that has any."""
    begin, bucket = 0, 0
    for i, value in enumerate(x):
        now = int((value - first) / width)
        if now != bucket:
            yield range(begin, i)
            begin, bucket = i, now
    yield range(begin, len(x))


def smooth(series: Series, window: int) -> Series:
    """The mean of the points so far, in which those `window` steps back count a seventh as much; gaps are left out.

    Exponential weights, divided by their sum, so that the first points are not drawn to zero.
    """
    keep = 1 - 2 / (window + 1)
    total = weight = 0.0
    x, y = [], []
    for place, value in zip(series.x, series.y, strict=True):
        if value is None:
            continue
        total, weight = keep * total + value, keep * weight + 1
        x.append(place)
        y.append(total / weight)
    return Series(tuple(x), tuple(y))


def window_of(num_points: int) -> int:
    """How many steps a smoothed curve takes together: a fortieth of the run; 0 where there are too few to smooth."""
    return 0 if num_points < 40 else max(5, num_points // 40)


def rounded(value: float | None, digits: int = 5) -> float | None:
    """With so many significant digits: what a screen can show, at half the length."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")
