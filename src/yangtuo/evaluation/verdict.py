"""Is the tuned model better than its base, broken, or is no difference shown: rules over measures of both.

Every rule says in one sentence what was measured. A change that the items cannot tell from noise fails no rule: what
fails is beyond a margin and, but for the loss on passages, has an interval wholly on the bad side. How a process ends
on a verdict is the caller's.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from yangtuo.evaluation.comparison import Comparison, PairedDifference, is_finite
from yangtuo.i18n import Listed, Message, gettext_noop

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
    """By how much a measure may be worse than the base's before its rule can fail; and what is too little to be better.

    Attributes:
        own_data: part of the base's loss on the user's data. A few steps at a tiny rate lower it by a hundredth of
            that, which many rows show beyond doubt and nobody would notice.
        general_ability: of the share of right answers.
        passages: of the cross-entropy, in nats a token. Another style of writing moves it by a few hundredths to two
            tenths; an adapter that ruined the model moves it by whole nats. 0.3 is a perplexity 1.35 times the base's.
        ends_answers: of the share of answers that end by the end token.
        seldom_ends: where the base's own share is below this, as that of a base that was never tuned, the margin
            above would excuse the loss of nearly all of it, and there is none.
        repetition: of the share of answers that repeat themselves.
    """

    own_data: float = 0.01
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
    what: Message
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
        _Limit(
            "general_ability",
            ACCURACY,
            Message("The share of right answers to the probe set"),
            1,
            limits.general_ability,
        ),
        # A few passages are enough: their losses hardly scatter, and one that a model cannot bear counts.
        _Limit(
            "passages", PASSAGE_LOSS, Message("The loss on plain passages"), -1, limits.passages, needs_interval=False
        ),
        _Limit("ends_answers", ENDED, Message("The share of answers that end by themselves"), 1, ends),
        _Limit("repetition", REPETITION, Message("The share of answers that repeat themselves"), -1, limits.repetition),
    )
    own = known.get(OWN_TEXT_LOSS, known.get(OWN_LOSS))
    rules = [_own_data(own, limits.own_data), *(_kept(limit, known.get(limit.measure)) for limit in kept)]
    rules += _not_finite(
        known[name] for name in known.keys() - {own.name if own else OWN_LOSS, *(limit.measure for limit in kept)}
    )
    return _of_rules(tuple(rules), own)


def _own_data(own: Comparison | None, margin: float) -> Rule:
    name, what = "own_data", Message("The loss on your data")
    if own is None or own.tuned is None or not _has_finite_values(own):
        return _unjudged(name, what, own)
    change = own.difference
    figures = _went(what, own, change)
    if change is None:
        return Rule(name, None, Message(_NO_INTERVAL, figures=figures))
    if change.high < 0 and change.estimate < -margin * abs(own.base):
        return Rule(name, True, Message("{figures}: it has improved.", figures=figures))
    if change.high < 0:
        told = Message(
            "{figures}: lower, but by no more than {margin:.0%}, which is the margin.", figures=figures, margin=margin
        )
        return Rule(name, False, told)
    if change.low > 0:
        return Rule(name, False, Message("{figures}: it has got worse.", figures=figures), is_worse=True)
    return Rule(name, False, Message("{figures}: no difference is shown.", figures=figures))


def _kept(limit: _Limit, measure: Comparison | None) -> Rule:
    if measure is None or measure.tuned is None or not _has_finite_values(measure):
        return _unjudged(limit.name, limit.what, measure)
    change = measure.difference
    figures = _went(limit.what, measure, change)
    gain = limit.sign * (change.estimate if change else measure.tuned - measure.base)
    is_beyond = gain < -limit.margin
    if change is None and limit.needs_interval:
        return Rule(limit.name, None, Message(_NO_INTERVAL, figures=figures))
    is_shown = change is not None and (change.high < 0 if limit.sign > 0 else change.low > 0)
    margin = _amount(limit.margin, measure.unit)
    if is_beyond and (is_shown or not limit.needs_interval):
        told = Message("{figures}: worse by more than {margin}, which is the margin.", figures=figures, margin=margin)
        return Rule(limit.name, False, told, is_worse=True)
    if is_shown:
        told = Message(
            "{figures}: worse, but by no more than {margin}, which is the margin.", figures=figures, margin=margin
        )
        return Rule(limit.name, True, told)
    if change is None or not _knows_smallest(change, measure.unit):
        return Rule(limit.name, True, Message("{figures}: no loss is shown.", figures=figures))
    told = Message(
        "{figures}: no loss is shown, and one below about {smallest} would hardly show.",
        figures=figures,
        smallest=_amount(change.smallest, measure.unit),
    )
    return Rule(limit.name, True, told)


def _unjudged(name: str, what: Message, measure: Comparison | None) -> Rule:
    """For a measure that is missing, or not finite."""
    if measure is None or _has_finite_values(measure):
        return Rule(name, None, Message("{what} was not measured.", what=what))
    told = Message("{figures}, and not all of that is a finite number.", figures=_went(what, measure))
    return Rule(name, False, told, is_worse=True)


def _not_finite(measures: Iterable[Comparison]) -> list[Rule]:
    """One rule for all values that are not finite and that no other rule looks at; none where there is none."""
    names = sorted(measure.name for measure in measures if not _has_finite_values(measure))
    text = Message("Not a finite number: {names}.", names=", ".join(names))
    return [Rule("finite", False, text, is_worse=True)] if names else []


def _of_rules(rules: tuple[Rule, ...], own: Comparison | None) -> Verdict:
    worse = [rule for rule in rules if rule.is_worse]
    missing = [rule.name for rule in rules if rule.passed is None]
    unknown = [Message("Not judged: {names}.", names=", ".join(missing))] if missing else []
    if worse:
        text = Listed([Message("Broken."), *(rule.text for rule in worse), *unknown], " ")
        return Verdict(Outcome.BROKEN, text, rules)
    if rules[0].passed:
        kept = [Message("No other rule fails.")] if len(missing) < len(rules) - 1 else []
        return Verdict(Outcome.BETTER, Listed([Message("Better."), rules[0].text, *kept, *unknown], " "), rules)
    text = Listed([Message("No difference shown."), rules[0].text, *_smallest(own), *unknown], " ")
    return Verdict(Outcome.NO_DIFFERENCE, text, rules)


def _smallest(own: Comparison | None) -> Iterator[Message]:
    """What the rows could have shown."""
    if own is None or own.difference is None:
        return
    rows = Message("1 row") if own.n == 1 else Message("{num_rows:,} rows", num_rows=own.n)
    if not _knows_smallest(own.difference, own.unit):
        yield Message("How small a difference {rows} can show is not known; evaluate more rows.", rows=rows)
        return
    yield Message(
        "The smallest difference that {rows} can show is about {least}; more rows show smaller ones.",
        rows=rows,
        least=_amount(own.difference.smallest, own.unit),
    )


def _knows_smallest(change: PairedDifference | None, unit: str) -> bool:
    """Of shares, a hundred points and more cannot be."""
    return change is not None and change.smallest < (1 if unit == "share" else math.inf)


def _has_finite_values(measure: Comparison) -> bool:
    """Ends of an interval may be infinite: then the items do not tell."""
    return is_finite([measure.base, measure.tuned, measure.difference.estimate if measure.difference else None])


_NO_INTERVAL = gettext_noop("{figures}, with no interval of the difference to judge by.")


def _went(what: Message, measure: Comparison, change: PairedDifference | None = None) -> Message:
    """From where to where; with a change, its interval."""
    after = Message("an unknown value") if measure.tuned is None else _figure(measure.tuned, measure.unit)
    figures = Message(
        "{what} went from {before} to {after}", what=what, before=_figure(measure.base, measure.unit), after=after
    )
    if change is None:
        return figures
    return Message("{figures} ({interval})", figures=figures, interval=_interval(change, measure.unit))


def _figure(value: float, unit: str) -> str:
    return f"{100 * value:.1f} %" if unit == "share" else f"{value:.3f} {unit}"


def _amount(value: float, unit: str) -> str:
    """Of a difference: points, since a difference of shares in per cent could be read as a ratio."""
    return Message("{points:.1f} points", points=100 * value) if unit == "share" else f"{value:.3f} {unit}"


def _interval(change: PairedDifference, unit: str) -> Message:
    if not is_finite([change.low, change.high]):
        return Message("from these items no interval of the difference can be told")
    scale, digits = (100, 1) if unit == "share" else (1, 3)
    low, middle, high = (f"{scale * value:+.{digits}f}" for value in (change.low, change.estimate, change.high))
    if unit == "share":
        return Message("{middle} points, 95 % interval {low} to {high}", middle=middle, low=low, high=high)
    return Message("{middle} {unit}, 95 % interval {low} to {high}", middle=middle, unit=unit, low=low, high=high)
