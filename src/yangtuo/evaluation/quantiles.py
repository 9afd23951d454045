"""Quantiles of Student's t and Wilson's interval, without scipy, which nothing else here needs."""

import math
from functools import lru_cache
from statistics import NormalDist

_MOST_EXACT = 100  # degrees of freedom up to which the t quantile is solved for


@lru_cache(maxsize=512)  # the same degrees come again with each measure
def t_quantile(inside: float, degrees: int) -> float:
    """The t within whose plus and minus Student's distribution has the part `inside` of its mass.

    Up to 100 degrees of freedom the finite series for whole degrees is solved by halving, beyond it is the expansion
    around the normal quantile; both are within 1e-7 of tables.

    Raises:
        ValueError: no degree of freedom, or a part that is not between 0 and 1.

    Source: Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.7.3, 26.7.4 and 26.7.5.
    """
    if degrees < 1 or not 0 < inside < 1:
        raise ValueError(f"no quantile of {inside} with {degrees} degrees of freedom")
    if degrees > _MOST_EXACT:
        return _expanded(NormalDist().inv_cdf((1 + inside) / 2), degrees)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _inside(middle, degrees) < inside else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def _inside(angle: float, degrees: int) -> float:
    """Mass within plus and minus sqrt(degrees) x tan(angle)."""
    squared, is_odd = math.cos(angle) ** 2, degrees % 2
    term = math.cos(angle) if is_odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(2 + is_odd, degrees - 1, 2):
        term *= squared * (k - 1) / k
        total += term
    return (angle + math.sin(angle) * total) * 2 / math.pi if is_odd else math.sin(angle) * total


def _expanded(z: float, degrees: int) -> float:
    terms: tuple[float, ...] = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / math.pow(degrees, power + 1) for power, term in enumerate(terms))


def wilson(p: float, n: float, z: float) -> tuple[float, float]:
    """Both ends of Wilson's interval of a share p of n items; z is the quantile of the confidence.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference" (1927).
    """
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)
    return (0.0 if p == 0 else low), (1.0 if p == 1 else high)
