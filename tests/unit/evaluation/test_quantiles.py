"""Quantiles against printed tables."""

import pytest

from yangtuo.evaluation import quantiles
from yangtuo.evaluation.quantiles import t_quantile, wilson


# Of any printed table of Student's t, two-sided 95 %, and one-sided 80 %.
@pytest.mark.parametrize(
    ("degrees", "wanted"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (10, 2.2281), (30, 2.0423), (100, 1.9840), (120, 1.9799)],
)
def test_the_quantile_of_t_is_that_of_tables(degrees, wanted):
    assert t_quantile(0.95, degrees) == pytest.approx(wanted, abs=5e-5)


@pytest.mark.parametrize(("degrees", "wanted"), [(1, 1.376), (5, 0.920), (20, 0.860), (120, 0.845)])
def test_the_quantile_of_power_is_that_of_tables(degrees, wanted):
    assert t_quantile(0.60, degrees) == pytest.approx(wanted, abs=5e-4)


def test_the_two_ways_to_the_quantile_of_t_meet(monkeypatch):
    exact = t_quantile(0.95, 100)
    t_quantile.cache_clear()
    monkeypatch.setattr(quantiles, "_MOST_EXACT", 99)
    assert t_quantile(0.95, 100) == pytest.approx(exact, abs=1e-7)
    t_quantile.cache_clear()


@pytest.mark.parametrize(("inside", "degrees"), [(0.95, 0), (0.0, 3), (1.0, 3)])
def test_there_is_no_such_quantile(inside, degrees):
    with pytest.raises(ValueError, match="quantile"):
        t_quantile(inside, degrees)


def test_wilson_by_a_published_value():
    assert wilson(0.8, 10, 1.959964) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0.0, 10, 1.959964)[0] == 0.0
