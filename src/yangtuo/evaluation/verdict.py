"""Is the tuned model better than its base, broken, or is no difference shown: rules over measures of both.

Every rule says in one sentence what was measured. A change that the items cannot tell from noise fails no rule: what
fails is beyond a margin and, but for the loss on passages, has an interval wholly on the bad side. How a process ends
on a verdict is the caller's.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from yangtuo.evaluation.comparison import Comparison, PairedDifference, is_finite

OWN_LOSS, ACCURACY, PASSAGE_LOSS = "own/loss", "probe/accuracy", "probe/loss"
OWN_TEXT_LOSS = "own/loss_by_character"  # in its place where the models' tokens are not the same
ENDED, REPETITION = "own/ended", "own/repetition"


class Outcome(StrEnum):
    """What `results.json` calls them."""

    BETTER = "better"
    NO_DIFFERENCE = "no_difference"
    BROKEN = "broken"


@dataclass(frozen=True)
class Margins:
    """By how much a measure may be worse than the base's before its rule can fail.

    Attributes:
        general_ability: of the share of right answers.
        passages: of the cross-entropy, in nats a token. Another style of writing moves it by a few hundredths to two
            tenths; an adapter that ruined the model moves it by whole nats. 0.3 is a perplexity 1.35 times the base's.
        ends_answers: of the share of answers that end by the end token.
        seldom_ends: where the base's own share is below this, as that of a base that was never tuned, the margin
            above would excuse the loss of nearly all of it, and there is none.
        repetition: of the share of answers that repeat themselves.
    """

    general_ability: float = 0.05
    passages: float = 0.3
    ends_answers: float = 0.05
    seldom_ends: float = 0.5
    repetition: float = 0.05


@dataclass(frozen=True)
class Rule:
    """What one rule found.

    Attributes:
        name: own_data, general_ability, passages, ends_answers, repetition; or finite, where a value that no rule
            looks at is not.
        passed: None where it was not measured.
        text: one sentence with the figures.
        is_worse: whether it makes the model a broken one. `own_data` may have failed without: no difference is shown.
    """

    name: str
    passed: bool | None
    text: str
    is_worse: bool = False


@dataclass(frozen=True)
class Verdict:
    """The end of an evaluation.

    Attributes:
        outcome: see `Outcome`.
        text: one line that says why.
        rules: all of them, in a fixed order.
    """

    outcome: Outcome
    text: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class _Limit:
    """A rule for what must not get worse by more than a margin.

    Attributes:
        name: the rule's.
        measure: that it looks at.
        what: how its sentence calls that.
        sign: 1 where higher values are better, -1 where lower ones are.
        margin: in the measure's unit.
        needs_interval: whether a change beyond the margin fails only with its interval wholly on the bad side.
    """

    name: str
    measure: str
    what: str
    sign: int
    margin: float
    needs_interval: bool = True


def judge(measures: Iterable[Comparison], margins: Margins | None = None) -> Verdict:
    """The verdict.

    broken: a value is not finite, the loss on the user's data has risen, or one of the other rules has failed;
    better: the loss on the user's data has fallen, and no rule has failed; no_difference: everything else.

    Args:
        measures: those of base and tuned, of which the rules take `own/loss`, `probe/accuracy`, `probe/loss`,
            `own/ended` (share of answers that end by the end token) and `own/repetition` (share of answers that
            repeat themselves). What is not there, or has no paired interval, is said to be not measured.
        margins: None for the defaults.
    """
    limits = margins or Margins()
    known = {measure.name: measure for measure in measures}
    base_ended = known[ENDED].base if ENDED in known else math.nan
    ends = 0.0 if base_ended < limits.seldom_ends else limits.ends_answers
    kept = (
        _Limit("general_ability", ACCURACY, "The share of right answers to the probe set", 1, limits.general_ability),
        # A few passages are enough: their losses hardly scatter, and one that a model cannot bear counts.
        _Limit("passages", PASSAGE_LOSS, "The loss on plain passages", -1, limits.passages, needs_interval=False),
        _Limit("ends_answers", ENDED, "The share of answers that end by themselves", 1, ends),
        _Limit("repetition", REPETITION, "The share of answers that repeat themselves", -1, limits.repetition),
    )
    own = known.get(OWN_TEXT_LOSS, known.get(OWN_LOSS))
    rules = [_own_data(own), *(_kept(limit, known.get(limit.measure)) for limit in kept)]
    rules += _not_finite(
        known[name] for name in known.keys() - {own.name if own else OWN_LOSS, *(limit.measure for limit in kept)}
    )
    return _of_rules(tuple(rules), own)


def _own_data(own: Comparison | None) -> Rule:
    name, what = "own_data", "The loss on your data"
    if own is None or own.tuned is None or not _has_finite_values(own):
        return _unjudged(name, what, own)
    figures, change = _went(what, own), own.difference
    if change is None:
        return Rule(name, None, f"{figures}, with no interval of the difference to judge by.")
    figures += f" ({_interval(change, own.unit)})"
    if change.high < 0:
        return Rule(name, True, f"{figures}: it has improved.")
    if change.low > 0:
        return Rule(name, False, f"{figures}: it has got worse.", is_worse=True)
    return Rule(name, False, f"{figures}: no difference is shown.")


def _kept(limit: _Limit, measure: Comparison | None) -> Rule:
    if measure is None or measure.tuned is None or not _has_finite_values(measure):
        return _unjudged(limit.name, limit.what, measure)
    figures, change = _went(limit.what, measure), measure.difference
    gain = limit.sign * (change.estimate if change else measure.tuned - measure.base)
    is_beyond = gain < -limit.margin
    if change is None and limit.needs_interval:
        return Rule(limit.name, None, f"{figures}, with no interval of the difference to judge by.")
    figures += f" ({_interval(change, measure.unit)})" if change else ""
    is_shown = change is not None and (change.high < 0 if limit.sign > 0 else change.low > 0)
    margin = f"{_amount(limit.margin, measure.unit)}, which is the margin"
    if is_beyond and (is_shown or not limit.needs_interval):
        return Rule(limit.name, False, f"{figures}: worse by more than {margin}.", is_worse=True)
    if is_shown:
        return Rule(limit.name, True, f"{figures}: worse, but by no more than {margin}.")
    small = f", and one below about {_amount(change.smallest, measure.unit)} would hardly show" if change else ""
    return Rule(limit.name, True, f"{figures}: no loss is shown{small if _knows_smallest(change) else ''}.")


def _unjudged(name: str, what: str, measure: Comparison | None) -> Rule:
    """For a measure that is missing, or not finite."""
    if measure is None or _has_finite_values(measure):
        return Rule(name, None, f"{what} was not measured.")
    return Rule(name, False, f"{_went(what, measure)}, and not all of that is a finite number.", is_worse=True)


def _not_finite(measures: Iterable[Comparison]) -> list[Rule]:
    """One rule for all values that are not finite and that no other rule looks at; none where there is none."""
    names = sorted(measure.name for measure in measures if not _has_finite_values(measure))
    text = f"Not a finite number: {', '.join(names)}."
    return [Rule("finite", False, text, is_worse=True)] if names else []


def _of_rules(rules: tuple[Rule, ...], own: Comparison | None) -> Verdict:
    worse = [rule for rule in rules if rule.is_worse]
    missing = [rule.name for rule in rules if rule.passed is None]
    unknown = f" Not judged: {', '.join(missing)}." if missing else ""
    if worse:
        return Verdict(Outcome.BROKEN, f"Broken. {' '.join(rule.text for rule in worse)}{unknown}", rules)
    if rules[0].passed:
        kept = " No other rule fails." if len(missing) < len(rules) - 1 else ""
        return Verdict(Outcome.BETTER, f"Better. {rules[0].text}{kept}{unknown}", rules)
    text = f"No difference shown. {rules[0].text}{_smallest(own)}{unknown}"
    return Verdict(Outcome.NO_DIFFERENCE, text, rules)


def _smallest(own: Comparison | None) -> str:
    """What the rows could have shown."""
    if own is None or own.difference is None:
        return ""
    rows = "1 row" if own.n == 1 else f"{own.n:,} rows"
    if not _knows_smallest(own.difference):
        return f" How small a difference {rows} can show is not known; evaluate more rows."
    least = _amount(own.difference.smallest, own.unit)
    return f" The smallest difference that {rows} can show is about {least}; more rows show smaller ones."


def _knows_smallest(change: PairedDifference | None) -> bool:
    return change is not None and math.isfinite(change.smallest)


def _has_finite_values(measure: Comparison) -> bool:
    """Ends of an interval may be infinite: then the items do not tell."""
    return is_finite([measure.base, measure.tuned, measure.difference.estimate if measure.difference else None])


def _went(what: str, measure: Comparison) -> str:
    after = "an unknown value" if measure.tuned is None else _figure(measure.tuned, measure.unit)
    return f"{what} went from {_figure(measure.base, measure.unit)} to {after}"


def _figure(value: float, unit: str) -> str:
    return f"{100 * value:.1f} %" if unit == "share" else f"{value:.3f} {unit}"


def _amount(value: float, unit: str) -> str:
    """Of a difference: points, since a difference of shares in per cent could be read as a ratio."""
    return f"{100 * value:.1f} points" if unit == "share" else f"{value:.3f} {unit}"


def _interval(change: PairedDifference, unit: str) -> str:
    if not is_finite([change.low, change.high]):
        return "from these items no interval of the difference can be told"
    scale, digits = (100, 1) if unit == "share" else (1, 3)
    low, middle, high = (f"{scale * value:+.{digits}f}" for value in (change.low, change.estimate, change.high))
    return f"{middle} {'points' if unit == 'share' else unit}, 95 % interval {low} to {high}"
