"""Estimates and differences, against values worked out by hand, tables, and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yangtuo.evaluation.statistics import (
    Difference,
    mean,
    paired,
    paired_ratio,
    paired_share,
    ratio,
    share,
    smallest_difference,
)

UNKNOWN = (-math.inf, math.inf)


def ends(found):
    return (found.low, found.high)


def test_mean_by_hand():
    # 1, 2, 3, 4: variance 5/3, standard error sqrt(5/12) = 0.645497, t with 3 degrees 3.18245.
    found = mean([1, 2, 3, 4])
    assert (found.value, found.n, found.num_clusters) == (2.5, 4, 4)
    assert found.low == pytest.approx(2.5 - 3.18245 * 0.645497, abs=1e-4)
    assert found.high == pytest.approx(2.5 + 3.18245 * 0.645497, abs=1e-4)


def test_clustered_mean_by_hand():
    # Residuals -1.5, -0.5 | 0.5, 1.5. Plain: 5/12. Miller adds (2 x 0.75 + 2 x 0.75) / 16 = 0.1875: 0.604167.
    found = mean([1, 2, 3, 4], ["a", "a", "b", "b"])
    assert found.num_clusters == 2
    assert found.high - found.value == pytest.approx(12.7062 * math.sqrt(0.6041667), rel=1e-5)


def test_items_that_are_copies_count_once():
    few = mean([1, 2, 4])
    many = mean(np.repeat([1, 2, 4], 50), np.repeat([0, 1, 2], 50))
    plain = mean(np.repeat([1, 2, 4], 50))
    assert many.num_clusters == few.num_clusters == 3
    # Miller's formula has n where that of three items has n - 1.
    assert (many.high - many.low) / (few.high - few.low) == pytest.approx(math.sqrt(2 / 3), rel=0.01)
    assert plain.high - plain.low < 0.2 * (many.high - many.low)  # what it would claim without


@pytest.mark.parametrize(
    "values", [[], [2.0], [3.0] * 10, [1.0, math.inf, 2.0], [1.0, math.nan, 2.0], [0.1 + 0.2, 0.3]]
)
def test_what_the_items_do_not_tell_is_not_claimed(values):
    found = mean(values)
    assert ends(found) == UNKNOWN
    assert found.interval is None
    assert found.n == len(values)
    assert np.isclose(found.value, np.mean(values), equal_nan=True) if values else math.isnan(found.value)


def test_one_cluster_tells_nothing():
    assert ends(mean([1, 2, 3], ["a"] * 3)) == UNKNOWN
    assert ends(paired([1, 2, 3], [2, 2, 2], ["a"] * 3)) == UNKNOWN
    assert ends(share([0, 1, 1], ["a"] * 3)) == (0, 1)
    assert ends(paired_share([0, 1, 1], [1, 1, 1], ["a"] * 3)) == (-1, 1)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"), [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1)]
)
def test_wilson_by_published_values(hits, n, low, high):
    found = share([1] * hits + [0] * (n - hits))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)


def test_a_share_in_clusters_is_wider():
    hits, groups = np.repeat([1, 1, 0, 1, 0, 1], 10), np.repeat(np.arange(6), 10)
    alone, together = share(hits), share(hits, groups)
    assert together.high - together.low > 2 * (alone.high - alone.low)
    all_hit = share([1] * 60, groups)
    # As 6 of 6 with t of 5 degrees, 2.5706: low = 6 / (6 + 2.5706^2).
    assert all_hit.low == pytest.approx(6 / (6 + 2.5706**2), abs=1e-4)
    assert all_hit.high == 1


def test_a_share_of_nothing():
    found = share([])
    assert math.isnan(found.value)
    assert ends(found) == (0, 1)


@pytest.mark.parametrize("values", [[0.5, 1], [2, 0], [math.nan]])
def test_a_share_is_of_yes_and_no(values):
    for call in (share, lambda found: paired_share(found, found)):
        with pytest.raises(ValueError, match="share"):
            call(values)


def test_ratio_by_hand():
    # Sums 2, 6, 10 over tokens 1, 2, 3: 3. Residuals (-1, 0, 1) / 2; SE^2 = 0.5 / 6; t with 2 degrees 4.30265.
    found = ratio([2, 6, 10], [1, 2, 3])
    assert found.value == 3
    assert found.high - 3 == pytest.approx(4.30265 * math.sqrt(0.5 / 6), abs=1e-5)


def test_a_row_without_weight_is_no_item():
    assert ratio([2, 6, 0, 10], [1, 2, 0, 3]) == ratio([2, 6, 10], [1, 2, 3])
    empty = ratio([0.0], [0.0])
    assert (empty.n, empty.interval) == (0, None)
    assert math.isnan(empty.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda: mean([1, 2], ["a"]),
        lambda: mean([[1, 2]]),
        lambda: ratio([1, 2], [1, -2]),
        lambda: ratio([1, 2], [1]),
        lambda: paired([1, 2], [1]),
        lambda: paired_ratio([1, 2], [1, 2], [1]),
        lambda: smallest_difference(10, 1.5),
    ],
)
def test_what_does_not_fit_together_is_refused(call):
    with pytest.raises(ValueError, match=r"clusters|shape|weights|model|share"):
        call()


def test_paired_by_hand():
    # Differences -1, -2, -3, -2: mean -2, variance 2/3, SE sqrt(1/6), t with 3 degrees 3.18245 and 0.97847 (80 %).
    found = paired([5, 7, 9, 4], [4, 5, 6, 2])
    half = 3.18245 * math.sqrt(1 / 6)
    assert found.estimate == -2
    assert ends(found) == pytest.approx((-2 - half, -2 + half), abs=1e-4)
    assert found.smallest == pytest.approx((3.18245 + 0.97847) * math.sqrt(1 / 6), abs=1e-4)
    assert found.is_better(-1)
    assert found.is_worse(1)
    assert not found.is_better(1)
    assert not found.is_worse(-1)


def test_paired_is_narrower_than_two_estimates():
    draws = np.random.default_rng(0)
    hard = draws.normal(3, 1, 200)
    before, after = hard + draws.normal(0, 0.1, 200), hard - 0.1 + draws.normal(0, 0.1, 200)
    assert paired(before, after).is_better(-1)
    assert mean(before).low < mean(after).high  # apart, they show nothing


@pytest.mark.parametrize("shift", [0.0, -0.5, 1e-16])
def test_differences_without_spread_claim_nothing(shift):
    found = paired([1.0, 2.0, 3.0], np.array([1.0, 2.0, 3.0]) + shift)
    assert ends(found) == UNKNOWN
    assert found.smallest == math.inf
    assert not found.is_better(1)
    assert not found.is_better(-1)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_broken_model_is_never_better(broken):
    found = paired([1.0, 2.0, 3.0], [1.0, broken, 2.0])
    assert not found.is_better(1)
    assert not found.is_better(-1)
    both = paired([1.0, broken, 3.0], [1.0, broken, 2.0])
    assert math.isnan(both.estimate)
    assert both.interval is None


def test_paired_ratio_is_the_ratio_of_differences():
    before, after, tokens = [4, 9, 16, 5], [2, 6, 10, 5], [1, 2, 3, 4]
    found, apart = paired_ratio(before, after, tokens), ratio([-2, -3, -6, 0], tokens)
    assert (found.estimate, *ends(found)) == (apart.value, *ends(apart))
    assert found.estimate == -1.1


def test_paired_ratio_in_clusters_by_hand():
    # Differences 1, 1, 3, 3 over 1 token each, two clusters: residuals -1, -1, 1, 1. 4 / 12 + (8 - 4) / 16 = 0.583333.
    found = paired_ratio([0] * 4, [1, 1, 3, 3], [1] * 4, [0, 0, 1, 1])
    assert found.high - 2 == pytest.approx(12.7062 * math.sqrt(7 / 12), rel=1e-5)


def test_paired_share_where_none_differs_is_the_rule_of_three():
    found = paired_share([1] * 30 + [0] * 10, [1] * 30 + [0] * 10)
    assert ends(found) == (-0.075, 0.075)
    assert (found.estimate, found.is_better(1), found.is_better(-1)) == (0, False, False)
    assert found.smallest == pytest.approx(2.8016 * math.sqrt(0.075 / 40), abs=1e-4)
    in_two = paired_share([1] * 40, [1] * 40, [0, 1] * 20)
    assert ends(in_two) == (-1, 1)


def test_paired_share_by_hand():
    # 6 gained, 1 lost of 38. With one more of each, n = 40: mean 0.125, squares 9 - 40 x 0.015625 = 8.375,
    # SE = sqrt(8.375 / (40 x 39)) = 0.073271, t with 39 degrees 2.02269.
    before, after = [0] * 6 + [1] + [1] * 31, [1] * 6 + [0] + [1] * 31
    found = paired_share(before, after)
    assert found.estimate == pytest.approx(5 / 38)
    assert ends(found) == pytest.approx((0.125 - 2.02269 * 0.073271, 0.125 + 2.02269 * 0.073271), abs=1e-4)
    assert (found.n, found.num_clusters) == (38, 38)


def test_all_items_gained_is_no_certainty():
    found = paired_share([0] * 10, [1] * 10)
    assert 0.3 < found.low < 0.6
    assert found.high == 1
    assert found.is_better(1)
    assert not paired_share([0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1]).is_better(1)


@pytest.mark.parametrize(("discordant", "wanted"), [(0.12, 0.0686), (0.20, 0.0886)])
def test_what_200_items_can_show(discordant, wanted):
    assert smallest_difference(200, discordant) == pytest.approx(wanted, abs=1e-4)
    assert smallest_difference(0, discordant) == math.inf


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30), st.floats(-100, 100), st.randoms())
def test_an_interval_moves_with_its_values_and_knows_no_order(values, shift, draws):
    found = mean(values)
    moved = mean([value + shift for value in draws.sample(values, len(values))])
    assert moved.value == pytest.approx(found.value + shift, abs=1e-6)
    if found.interval and moved.interval:
        assert moved.high - moved.low == pytest.approx(found.high - found.low, abs=1e-6, rel=1e-6)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_one_model_against_the_other_is_the_mirror_image(items):
    one, other = [a for a, _ in items], [b for _, b in items]
    there, back = paired_share(one, other), paired_share(other, one)
    assert there.estimate == pytest.approx(-back.estimate)
    assert ends(there) == pytest.approx((-back.high, -back.low))
    assert there.low <= there.estimate <= there.high


def covered(draw, truth, times=2000):
    draws = np.random.default_rng(7)
    return sum(found.low <= truth <= found.high for found in (draw(draws) for _ in range(times))) / times


def test_intervals_cover_what_they_say():
    def plain(draws):
        return mean(draws.exponential(2.0, 150))

    def clustered(draws, *, known=True):
        groups = np.repeat(np.arange(40), 5)
        values = 2 + draws.normal(0, 1, 40)[groups] + draws.normal(0, 1, 200)
        return mean(values, groups.tolist() if known else None)

    def of_pairs(draws):
        hard = draws.normal(3, 1, 60)
        return paired(hard, hard - 0.5 + draws.normal(0, 0.3, 60))

    def of_tokens(draws):
        tokens = draws.integers(5, 200, 80)
        before = tokens * draws.normal(3, 0.5, 80)
        return paired_ratio(before, before - tokens * draws.normal(1, 0.4, 80), tokens)

    def of_shares(draws):
        kind = draws.choice(4, 100, p=[0.5, 0.1, 0.2, 0.2])  # right twice, lost, gained, wrong twice
        return paired_share(kind <= 1, (kind == 0) | (kind == 2))

    assert 0.93 <= covered(plain, 2.0) <= 0.97
    assert 0.93 <= covered(clustered, 2.0) <= 0.97
    assert covered(lambda draws: clustered(draws, known=False), 2.0) < 0.85  # what clusters are for
    assert 0.93 <= covered(of_pairs, -0.5) <= 0.97
    assert 0.93 <= covered(of_tokens, -1.0) <= 0.97
    assert 0.93 <= covered(of_shares, 0.1) <= 0.97
    assert 0.93 <= covered(lambda draws: share(draws.random(50) < 0.2), 0.2) <= 0.98


def test_the_smallest_difference_is_seen_in_four_of_five_tries():
    draws, seen = np.random.default_rng(3), 0
    for _ in range(1000):
        hard = draws.normal(3, 1, 50)
        typical = 0.3 / math.sqrt(50) * (2.0096 + 0.8489)  # t of 49 degrees
        found = paired(hard, hard - typical + draws.normal(0, 0.3, 50))
        seen += found.is_better(-1)
        assert found.smallest == pytest.approx(typical, rel=0.5)
    assert 0.76 <= seen / 1000 <= 0.84


def test_a_difference_is_what_it_is():
    assert Difference(1.0, 0.5, 1.5, 0.7, 9, 9).interval == (0.5, 1.5)
