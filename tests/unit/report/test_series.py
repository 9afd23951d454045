"""Curves: no spike is lost, nothing is invented."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yangtuo.report.series import Series, decimate, rounded, smooth, window_of

VALUES = st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=300)


@given(VALUES, st.integers(1, 40))
def test_what_stays_is_a_part_with_both_ends_and_the_extremes(values, num_buckets):
    series = Series(tuple(map(float, range(len(values)))), tuple(values))
    kept = decimate(series, num_buckets)
    points = list(zip(series.x, series.y, strict=True))
    left = list(zip(kept.x, kept.y, strict=True))
    assert [point for point in points if point in left] == left
    assert (left[0], left[-1]) == (points[0], points[-1])
    assert len(left) <= max(3 * (num_buckets + 1) + 2, 2 * num_buckets)
    if series:
        assert (min(kept.values()), max(kept.values())) == (min(series.values()), max(series.values()))
    assert (None in kept.y) == (None in series.y)


def test_each_bucket_keeps_its_spikes():
    values = [0.0] * 1000
    for place in (137, 512, 900):
        values[place] = 50.0
    kept = decimate(Series(tuple(map(float, range(1000))), tuple(values)), 20)
    assert [x for x, y in zip(kept.x, kept.y, strict=True) if y == 50.0] == [137, 512, 900]
    assert len(kept.x) <= 62


def test_every_nth_point_would_lose_them():
    """The negative control of the test above."""
    values = [50.0 if place in (137, 512, 901) else 0.0 for place in range(1000)]
    assert 50.0 not in values[::20]


def test_few_points_stay_as_they_are():
    series = Series((1.0, 2.0, 3.0), (1.0, None, 2.0))
    assert decimate(series, 2) is series


def test_smoothing_by_hand():
    # keep = 1 - 2 / 4 = 1/2: 8; (8/2 + 2) / (1/2 + 1); (6/2 + 5) / (3/4 + 1)
    found = smooth(Series((1.0, 2.0, 3.0, 4.0), (8.0, 2.0, None, 5.0)), 3)
    assert found.x == (1.0, 2.0, 4.0)
    assert found.y == pytest.approx((8.0, 4.0, 8 / 1.75))


@given(st.floats(-1e3, 1e3), st.integers(1, 50))
def test_a_level_curve_stays_level(value, number):
    found = smooth(Series(tuple(map(float, range(number))), (value,) * number), 10)
    assert found.y == pytest.approx((value,) * number)


def test_windows():
    assert [window_of(n) for n in (10, 39, 40, 400, 5000)] == [0, 0, 5, 10, 125]


@pytest.mark.parametrize(
    ("value", "found"), [(1.23456789, 1.2346), (1234567.0, 1234600.0), (math.nan, None), (math.inf, None), (None, None)]
)
def test_rounded(value, found):
    assert rounded(value) == found
