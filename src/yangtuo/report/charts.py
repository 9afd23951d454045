"""The curves of one or several runs: as data for uPlot, and as drawings for browsers without scripts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from yangtuo.report import svg, texts
from yangtuo.report.run_log import RunLog
from yangtuo.report.series import Series, decimate, rounded, smooth, window_of
from yangtuo.report.svg import Line

MOST_RUNS = 8  # as many colours as a person with any kind of sight tells apart
_BUCKETS = 600  # for all curves of a chart together: no chart is wider in pixels
_NAMES = ("loss", "eval_loss", "learning_rate", "grad_norm", "tokens_per_s", "memory")
_UNITS = {"memory": 2.0**30}


@dataclass(frozen=True)
class Curve:
    """One curve of a chart.

    Attributes:
        run: the number of its run, which is that of its colour.
        label: in both languages.
        series: all its points.
        is_pale: drawn behind the others.
        has_points: few enough points to be seen one by one.
    """

    run: int
    label: dict[str, str]
    series: Series
    is_pale: bool = False
    has_points: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart: the name of its texts, its curves, and the steps at which a run noticed something."""

    name: str
    curves: tuple[Curve, ...]
    marks: tuple[tuple[int, str], ...] = ()

    @property
    def drawing(self) -> Markup:
        """For browsers without scripts."""
        title = " · ".join(texts.plain(f"curve.{self.name}").values())
        return svg.lines([Line(c.series, c.run, c.is_pale, c.has_points) for c in self.curves], title)

    def data(self) -> dict[str, Any]:
        """For uPlot, thinned out, as JSON values."""
        buckets = max(60, _BUCKETS // max(1, len(self.curves)))
        return {
            "name": self.name,
            "title": texts.plain(f"curve.{self.name}"),
            "marks": [list(mark) for mark in self.marks],
            "curves": [
                {
                    "label": curve.label,
                    "run": curve.run,
                    "pale": curve.is_pale,
                    "points": curve.has_points,
                    **_numbers(decimate(curve.series, buckets)),
                }
                for curve in self.curves
            ],
        }


def charts_of(logs: Sequence[RunLog], names: Sequence[str]) -> list[Chart]:
    """Every chart for which a run has two numbers or more, with the curves of all runs; `names` are those of runs."""
    found = []
    for name in _NAMES:
        curves = tuple(curve for run, log in enumerate(logs) for curve in _curves(name, run, log, names))
        if any(len(curve.series.values()) > 1 for curve in curves):  # a single one is told by a figure
            marks = tuple((event.step, event.name) for event in logs[0].events) if len(logs) == 1 else ()
            found.append(Chart(name, curves, marks if name == "loss" else ()))
    return found


def _curves(name: str, run: int, log: RunLog, names: Sequence[str]) -> Iterator[Curve]:
    series = _in_unit(log.curves[name], _UNITS.get(name, 1.0))
    if not series.x:
        return
    is_alone = len(names) == 1
    label = texts.plain(f"curve.{name}") if is_alone else {"en": names[run], "zh": names[run]}
    window = window_of(len(series.x)) if name == "loss" else 0
    if window:
        each = texts.plain("curve.each")
        beside = each if is_alone else {key: f"{names[run]}, {text}" for key, text in each.items()}
        yield Curve(run, beside, series, is_pale=True)
        label = texts.plain("curve.smooth") if is_alone else label
        series = smooth(series, window)
    yield Curve(run, label, series, has_points=name == "eval_loss" and len(series.x) <= 100)


def _in_unit(series: Series, unit: float) -> Series:
    return series if unit == 1 else Series(series.x, tuple(y and y / unit for y in series.y))


def _numbers(series: Series) -> dict[str, list[float | int | None]]:
    return {
        "x": [int(x) if x == int(x) else x for x in series.x],
        "y": [rounded(y) for y in series.y],
    }
