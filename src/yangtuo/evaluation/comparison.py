"""One measure of a base and of what was tuned from it: the values that `results.json` has, as plain numbers."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

Better = Literal["lower", "higher"] | None


class PairedDifference(Protocol):
    """Tuned minus base on the same items, with its 95 % interval, as `evaluation.statistics` has it."""

    @property
    def estimate(self) -> float:
        """Tuned minus base."""

    @property
    def low(self) -> float:
        """Lower end of the interval; minus infinity where the items do not tell."""

    @property
    def high(self) -> float:
        """Upper end of the interval; plus infinity where the items do not tell."""

    @property
    def smallest(self) -> float:
        """The smallest true difference that so many items would probably show."""


@dataclass(frozen=True)
class Comparison:
    """One measure.

    Attributes:
        name: as in `results.json`, such as "own/loss" or "probe/zh/facts".
        unit: of the values, such as "nats/token"; "share" for 0 to 1.
        better: which values are the better ones; None where neither is.
        n: number of items that were measured.
        base: the base's value.
        tuned: the tuned model's; None where only one model was measured.
        difference: None where there is none, or where the values do not allow one.
    """

    name: str
    unit: str
    better: Better
    n: int
    base: float
    tuned: float | None = None
    difference: PairedDifference | None = None


def is_finite(values: Iterable[float | None]) -> bool:
    """Whether all numbers are finite; None is no number and does not count."""
    return all(value is None or math.isfinite(value) for value in values)
