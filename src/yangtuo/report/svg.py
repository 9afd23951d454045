"""Small drawings as inline SVG: curves for browsers without scripts, bars, intervals. Pure functions of values.

Colours are classes (`s0`, `s1`, ...), which the page's style sheet gives, so that one drawing serves light and dark.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from yangtuo.report.series import Series, decimate

_WIDTH, _HEIGHT = 640, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 8, 10, 22  # around the drawing, for the scales
_BUCKETS = 480  # of all curves of a drawing together, and at most half of them of one: what 640 units can show
_TICKS = 4


@dataclass(frozen=True)
class Line:
    """A curve to draw: its points, the number of its colour, and whether it is pale or has its points marked."""

    series: Series
    colour: int
    is_pale: bool = False
    has_points: bool = False


def lines(curves: Sequence[Line], title: str) -> Markup:
    """Curves over one scale each way, with ticks; `title` is read aloud in their place."""
    xs = [x for line in curves for x in line.series.x]
    ys = [y for line in curves for y in line.series.values()]
    if not xs or not ys:
        return Markup("")
    ticks = scale(min(ys), max(ys))
    left, right = min(xs), max(max(xs), min(xs) + 1)
    low, high = min(ticks[0], *ys), max(ticks[-1], *ys)

    def place(x: float, y: float) -> str:
        across = _LEFT + (x - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)
        down = _TOP + (high - y) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)
        return f"{across:.1f} {down:.1f}"

    parts = []
    for tick in ticks:
        height = place(left, tick).split()[1]
        parts.append(f'<path class="grid" d="M{_LEFT} {height}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{height}" dy="4" text-anchor="end">{short(tick)}</text>')
    for x, anchor in ((left, "start"), (right, "end")):
        across = place(x, low).split()[0]
        parts.append(f'<text x="{across}" y="{_HEIGHT - 6}" text-anchor="{anchor}">{short(x)}</text>')
    for line in curves:
        series = decimate(line.series, min(_BUCKETS // 2, max(30, _BUCKETS // len(curves))))
        kind = f"line s{line.colour}" + (" pale" if line.is_pale else "")
        parts.append(f'<path class="{kind}" d="{_path(series, place)}"/>')
        if line.has_points:
            dots = (place(x, y).split() for x, y in zip(series.x, series.y, strict=True) if y is not None)
            parts += [f'<circle class="dot s{line.colour}" cx="{x}" cy="{y}" r="3"/>' for x, y in dots]
    return _drawing(_WIDTH, _HEIGHT, title, "".join(parts))


def _path(series: Series, place: Callable[[float, float], str]) -> str:
    """Lines from point to point, interrupted where a value is none."""
    steps, pen = [], "M"
    for x, y in zip(series.x, series.y, strict=True):
        if y is None:
            pen = "M"
            continue
        steps.append(pen + place(x, y))
        pen = "L"
    return "".join(steps)


def scale(low: float, high: float) -> list[float]:
    """Some round numbers from the one to the other, and a little around them.

    Steps are 1, 2 or 5 times a power of ten, so that at most 6 lie between.
    """
    if not high - low > 1e-9 * max(abs(low), abs(high), 1e-200):
        spread = abs(low) * 0.1 or 1.0
        low, high = low - spread, high + spread
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(width * power for width in (1, 2, 5, 10) if width * power >= rough * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, last + 1)]


def short(value: float) -> str:
    """A number for a scale."""
    size = abs(value)
    if size >= 1e6 or (0 < size < 1e-3):
        mantissa, power = f"{value:.3g}".split("e") if "e" in f"{value:.3g}" else f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(power)}"
    return f"{value:,.0f}" if size >= 1000 else f"{value:.4g}"


def histogram(bars: Sequence[tuple[int, int, int]], title: str) -> Markup:
    """Bars beside each other: of each its range, from and to, and its height."""
    if not bars:
        return Markup("")
    width, height, most = 640, 150, max(rows for _, _, rows in bars) or 1
    step = width / len(bars)
    parts = []
    for number, (begin, end, rows) in enumerate(bars):
        tall = rows / most * (height - 40)
        left = number * step
        middle = left + step / 2
        odd = ' class="odd"' if number % 2 else ""
        tip = f"{begin:,}-{end:,}: {rows:,}"
        parts.append(
            f'<rect class="bar" x="{left + 2:.1f}" y="{height - 20 - tall:.1f}" width="{step - 4:.1f}" '
            f'height="{tall:.1f}" rx="2"><title>{tip}</title></rect>'
            f'<text class="count" x="{middle:.1f}" y="{height - 25 - tall:.1f}" text-anchor="middle">{rows:,}</text>'
            f'<text{odd} x="{middle:.1f}" y="{height - 5}" text-anchor="middle">{begin:,}</text>'
        )
    return _drawing(width, height, title, "".join(parts), "histogram")


def stack(parts: Sequence[int], total: int, mark: float | None, title: str) -> Markup:
    """Parts of a whole end to end, and a mark: what was measured, in the same unit."""
    width, height = 640, 34
    most = max(total, mark or 0) or 1
    drawn, left = [], 0.0
    for number, part in enumerate(parts):
        wide = part / most * (width - 4)
        drawn.append(f'<rect class="part p{number % 8}" x="{left + 2:.1f}" y="8" width="{wide:.1f}" height="18"/>')
        left += wide
    if mark is not None:
        drawn.append(f'<path class="mark" d="M{2 + mark / most * (width - 4):.1f} 2V32"/>')
    return _drawing(width, height, title, "".join(drawn))


def interval(estimate: float, low: float, high: float, verdict: str, title: str) -> Markup:
    """An estimate with its interval, and where zero lies; `verdict` is a class: good, bad or none."""
    width, height = 120, 18
    most = max(abs(low), abs(high), abs(estimate)) or 1.0

    def across(value: float) -> float:
        return width / 2 + value / most * (width / 2 - 6)

    return _drawing(
        width,
        height,
        title,
        f'<path class="grid" d="M{width / 2} 1V17"/>'
        f'<path class="range {verdict}" d="M{across(low):.1f} 9H{across(high):.1f}"/>'
        f'<circle class="dot {verdict}" cx="{across(estimate):.1f}" cy="9" r="4"/>',
    )


def _drawing(width: int, height: int, title: str, inside: str, kind: str = "drawing") -> Markup:
    return Markup(
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">{inside}</svg>'
    )
