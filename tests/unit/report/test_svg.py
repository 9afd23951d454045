"""Drawings: what lies where, computed by hand."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yangtuo.report import svg
from yangtuo.report.series import Series
from yangtuo.report.svg import Line


def parts(drawing, tag, kind=""):
    root = ElementTree.fromstring(str(drawing))
    return [one for one in root.iter(tag) if kind in (one.get("class") or "").split() or not kind]


def test_a_curve_lies_between_its_scales():
    drawing = svg.lines([Line(Series((0.0, 10.0), (0.0, 4.0)), 2)], "Loss")
    (path,) = parts(drawing, "path", "line")
    assert path.get("class") == "line s2"
    assert path.get("d") == "M56.0 198.0L632.0 10.0"  # from the lower left corner to the upper right one
    assert [one.text for one in parts(drawing, "text")] == ["0", "1", "2", "3", "4", "0", "10"]


def test_a_curve_is_interrupted_where_it_has_no_value():
    drawing = svg.lines([Line(Series((0.0, 1.0, 2.0, 3.0), (0.0, 1.0, None, 1.0)), 0)], "it")
    assert re.sub(r"[\d. ]+", "", parts(drawing, "path", "line")[0].get("d")) == "MLM"


@pytest.mark.parametrize("series", [Series(), Series((1.0,), (None,))])
def test_nothing_is_drawn_of_nothing(series):
    assert svg.lines([Line(series, 0)], "it") == ""


def test_a_title_is_escaped():
    drawing = svg.lines([Line(Series((0.0, 1.0), (1.0, 1.0)), 0)], '"><script>')
    assert ElementTree.fromstring(str(drawing)).get("aria-label") == '"><script>'


def test_bars_by_hand():
    drawing = svg.histogram([(0, 49, 10), (50, 99, 20)], "lengths")
    low, high = parts(drawing, "rect")
    assert float(high.get("height")) == 2 * float(low.get("height")) == 110
    assert [one.text for one in parts(drawing, "title")] == ["0-49: 10", "50-99: 20"]
    assert svg.histogram([], "lengths") == ""


def test_a_whole_and_what_was_measured():
    drawing = svg.stack([30, 10], 40, 20.0, "memory")
    first, second = parts(drawing, "rect")
    assert (first.get("width"), second.get("x"), second.get("width")) == ("477.0", "479.0", "159.0")
    assert parts(drawing, "path", "mark")[0].get("d") == "M320.0 2V32"


def test_an_interval_lies_on_its_side_of_zero():
    drawing = svg.interval(-1.0, -2.0, -0.5, "good", "own/loss")
    (line,) = parts(drawing, "path", "range")
    assert line.get("d") == "M6.0 9H46.5"  # zero is at 60
    assert parts(drawing, "circle")[0].get("cx") == "33.0"


@given(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9))
def test_a_scale_is_round_and_wide_enough(a, b):
    low, high = min(a, b), max(a, b)
    ticks = svg.scale(low, high)
    rounding = 1e-9 * max(abs(low), abs(high))
    assert ticks[0] <= low + rounding
    assert ticks[-1] >= high - rounding
    assert 2 <= len(ticks) <= 8


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1e-4, "1e-4"),
        (0.25, "0.25"),
        (12345.0, "12,345"),
        (2e6, "2e6"),
        (-3e-5, "-3e-5"),
        (1.5e-7, "1.5e-7"),
    ],
)
def test_numbers_of_a_scale(value, text):
    assert svg.short(value) == text
