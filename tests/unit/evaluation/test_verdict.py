import math
from dataclasses import dataclass, replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yangtuo.evaluation.comparison import Comparison
from yangtuo.evaluation.verdict import Margins, Outcome, judge

UNITS = {
    "own/loss": ("nats/token", "lower", 2.0),
    "probe/accuracy": ("share", "higher", 0.6),
    "probe/loss": ("nats/token", "lower", 2.5),
    "own/ended": ("share", "higher", 0.9),
    "own/repetition": ("share", "lower", 0.1),
}
RULES = {
    "own_data": "own/loss",
    "general_ability": "probe/accuracy",
    "passages": "probe/loss",
    "ends_answers": "own/ended",
    "repetition": "own/repetition",
}
WORSE = {name: -1 if better == "higher" else 1 for name, (_, better, _) in UNITS.items()}


@dataclass(frozen=True)
class Change:
    """Stands in for a difference of the statistics."""

    estimate: float
    low: float
    high: float
    smallest: float = 0.123


def measure(name, change=0.0, half=0.02, base=None):
    """A measure that changed by this, with an interval of twice `half`."""
    unit, better, usual = UNITS[name]
    base = usual if base is None else base
    return Comparison(name, unit, better, 40, base, base + change, Change(change, change - half, change + half))


def measures(**changes):
    """All of them, without a change but for those named, with _ for /."""
    return [measure(name, *changes.get(name.replace("/", "_"), ())) for name in UNITS]


def failed(verdict):
    return {rule.name for rule in verdict.rules if rule.is_worse}


@pytest.mark.parametrize("own", [(-0.5, Outcome.BETTER), (0.01, Outcome.NO_DIFFERENCE), (0.5, Outcome.BROKEN)])
@pytest.mark.parametrize("others", list(product([False, True], repeat=4)))
def test_truth_table(own, others):
    names = [name for name in UNITS if name != "own/loss"]
    bad = {name: (0.5 * WORSE[name],) for name, is_bad in zip(names, others, strict=True) if is_bad}
    verdict = judge(measures(own_loss=(own[0],), **{name.replace("/", "_"): change for name, change in bad.items()}))
    assert verdict.outcome == (Outcome.BROKEN if any(others) else own[1])
    assert failed(verdict) - {"own_data"} == {rule for rule, name in RULES.items() if name in bad}
    assert [rule.name for rule in verdict.rules] == list(RULES)
    assert verdict.rules[0].passed is (own[1] == Outcome.BETTER)


@pytest.mark.parametrize("name", [name for name in UNITS if name not in ("own/loss", "probe/loss")])
@pytest.mark.parametrize(
    ("change", "half", "fails"),
    [
        (0.10, 0.02, True),
        (0.10, 0.12, False),  # within noise
        (0.04, 0.02, False),  # within the margin
        (0.10, math.inf, False),  # too few items
        (-0.10, 0.02, False),
    ],
)
def test_a_rule_fails_beyond_its_margin_and_beyond_noise(name, change, half, fails):
    verdict = judge(measures(own_loss=(-0.5,), **{name.replace("/", "_"): (change * WORSE[name], half)}))
    rule = next(rule for rule in verdict.rules if RULES[rule.name] == name)
    assert (rule.passed, rule.is_worse) == (not fails, fails)
    assert verdict.outcome == (Outcome.BROKEN if fails else Outcome.BETTER)


@pytest.mark.parametrize(("change", "half", "fails"), [(0.31, 0.02, True), (0.31, 9.0, True), (0.29, 0.02, False)])
def test_passages_need_no_interval_on_the_bad_side(change, half, fails):
    assert (failed(judge(measures(probe_loss=(change, half)))) == {"passages"}) is fails


def test_passages_need_no_interval_at_all():
    ruined = replace(measure("probe/loss", 5.0), difference=None)
    assert failed(judge([ruined])) == {"passages"}


@pytest.mark.parametrize(("base", "change", "fails"), [(0.9, -0.04, False), (0.3, -0.04, True), (0.3, 0.04, False)])
def test_a_base_that_seldom_ends_its_answers_has_no_margin(base, change, fails):
    assert (failed(judge(measures(own_ended=(change, 0.02, base)))) == {"ends_answers"}) is fails


def test_margins_are_the_callers():
    changed = measures(probe_accuracy=(-0.10,), probe_loss=(0.5,), own_ended=(-0.10,), own_repetition=(0.10,))
    assert failed(judge(changed)) == set(RULES) - {"own_data"}
    assert failed(judge(changed, Margins(0.01, 0.2, 1.0, 0.2, 0.5, 0.2))) == set()
    assert failed(judge(measures(own_ended=(-0.10,)), Margins(ends_answers=0.2, seldom_ends=0.95))) == {"ends_answers"}


@pytest.mark.parametrize("name", [*UNITS, "choice/ceval/accuracy"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["base", "tuned", "estimate"])
def test_whatever_is_not_finite_is_broken(name, value, field):
    usual = [*measures(own_loss=(-0.5,)), Comparison("choice/ceval/accuracy", "share", "higher", 9, 0.5, 0.5)]
    assert judge(usual).outcome == Outcome.BETTER
    broken = [
        one
        if one.name != name
        else replace(one, difference=Change(value, -1, 1))
        if field == "estimate"
        else replace(one, **{field: value})
        for one in usual
    ]
    verdict = judge(broken)
    assert verdict.outcome == Outcome.BROKEN
    (rule,) = [rule for rule in verdict.rules if rule.is_worse]
    assert rule.name == next((rule for rule, measured in RULES.items() if measured == name), "finite")
    assert rule.passed is False


@pytest.mark.parametrize("name", UNITS)
def test_a_base_that_is_not_finite_is_broken_without_the_other(name):
    assert judge([replace(measure(name), base=math.nan, tuned=None, difference=None)]).outcome == Outcome.BROKEN


@pytest.mark.parametrize("rule", RULES)
def test_what_was_not_measured_is_said(rule):
    name = RULES[rule]
    usual = measures(own_loss=(-0.5,))
    alone = replace(measure(name), tuned=None, difference=None)
    without_interval = [] if name == "probe/loss" else [replace(measure(name), difference=None)]
    for instead in ([], [alone], *([one] for one in without_interval)):
        verdict = judge([one for one in usual if one.name != name] + instead)
        assert {rule.name for rule in verdict.rules if rule.passed is None} == {rule}
        assert verdict.outcome == (Outcome.NO_DIFFERENCE if rule == "own_data" else Outcome.BETTER)
        assert f"Not judged: {rule}." in verdict.text


def test_nothing_measured_is_no_difference():
    verdict = judge([])
    assert verdict.outcome == Outcome.NO_DIFFERENCE
    assert {rule.passed for rule in verdict.rules} == {None}
    assert all(name in verdict.text for name in RULES)
    assert "No other rule" in judge(measures(own_loss=(-0.5,))).text
    assert "No other rule" not in judge([measure("own/loss", -0.5)]).text


def test_no_difference_tells_the_smallest_that_would_show():
    text = judge(measures()).text
    assert "40 rows" in text
    assert "0.123 nats/token" in text
    unknown = replace(measure("own/loss"), n=1, difference=Change(0.0, -math.inf, math.inf, math.inf))
    assert "1 row can show is not known" in judge([unknown]).text


def test_sentences_have_the_figures():
    verdict = judge(measures(own_loss=(-0.5, 0.1), probe_accuracy=(-0.123, 0.05)))
    own, ability = verdict.rules[:2]
    assert all(part in own.text for part in ("2.000", "1.500", "-0.500", "-0.600", "-0.400", "nats/token"))
    assert all(part in ability.text for part in ("60.0 %", "47.7 %", "-12.3 points", "-17.3", "-7.3", "5.0 points"))
    assert ability.text in verdict.text
    assert all(rule.text.endswith(".") and "\n" not in rule.text for rule in verdict.rules)


def test_outcomes_are_those_of_the_file():
    assert {str(outcome) for outcome in Outcome} == {"better", "no_difference", "broken"}


CHANGES = st.tuples(st.floats(-1, 1), st.floats(0, 1))
RANKS = {Outcome.BROKEN: 0, Outcome.NO_DIFFERENCE: 1, Outcome.BETTER: 2}


@given(
    st.dictionaries(st.sampled_from(list(UNITS)), CHANGES),
    st.sampled_from(list(UNITS)),
    st.one_of(st.floats(0, 2), st.just(math.inf), st.just(math.nan)),
    st.floats(0, 1),
)
def test_a_worse_measure_makes_no_better_verdict(changes, name, by, base_ended):
    bases = {"own/ended": base_ended}
    before = [measure(one, *change, base=bases.get(one)) for one, change in changes.items()]
    after = [
        measure(one, change + by * WORSE[one] * (one == name), half, base=bases.get(one)) if one == name else same
        for same, (one, (change, half)) in zip(before, changes.items(), strict=True)
    ]
    assert RANKS[judge(after).outcome] <= RANKS[judge(before).outcome]


@pytest.mark.parametrize(
    ("change", "outcome"),
    [(-0.019, Outcome.NO_DIFFERENCE), (-0.021, Outcome.BETTER), (0.019, Outcome.BROKEN)],  # of 2.0, by a hundredth
)
def test_a_gain_that_nobody_would_notice_is_none_though_it_is_shown(change, outcome):
    shown = Change(change, change - 0.005, change + 0.005, 0.008)
    verdict = judge([replace(measure("own/loss", change), difference=shown)])
    assert verdict.outcome is outcome
    assert ("margin" in verdict.rules[0].text) == (change == -0.019)


def test_differences_of_more_than_all_are_not_told():
    few = replace(measure("own/ended"), difference=Change(0.0, -0.5, 0.5, 1.2))
    told = next(rule for rule in judge([few]).rules if rule.name == "ends_answers")
    assert "points would" not in told.text
