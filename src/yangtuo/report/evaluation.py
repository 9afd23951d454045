"""evaluation/results.json -> measures of base and tuned model, a verdict, answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yangtuo.report.json_reading import (
    State,
    count,
    mapping,
    number,
    numbers,
    objects,
    read_object,
    text,
    truth,
)

FILE = Path("evaluation", "results.json")


@dataclass(frozen=True)
class Difference:
    """The tuned model's value less the base's, with its interval; `smallest` is what so many items could show."""

    estimate: float
    low: float
    high: float
    smallest: float | None


@dataclass(frozen=True)
class Measure:
    """One measure of each model.

    Attributes:
        name: such as own/loss or choice/ceval/accuracy.
        unit: of its values.
        better: lower, higher, or empty where neither is.
        num_items: that were measured.
        values: by the model's name.
        intervals: low and high, by the model's name.
        difference: None with one model.
    """

    name: str
    unit: str
    better: str
    num_items: int | None
    values: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    difference: Difference | None

    @property
    def is_better(self) -> bool | None:
        """Whether the tuned model is better by more than chance, or worse; None where neither can be said."""
        if self.difference is None or not self.better or self.difference.low <= 0 <= self.difference.high:
            return None
        return (self.difference.estimate < 0) == (self.better == "lower")


@dataclass(frozen=True)
class Rule:
    """One of the rules of the verdict; `passed` is None where it could not be asked."""

    name: str
    passed: bool | None
    text: str
    text_zh: str


@dataclass(frozen=True)
class Evaluation:
    """What `yangtuo eval` has found.

    Attributes:
        models: their names, the base first.
        outcome: better, no_difference, broken; empty where only one model was measured.
        sentence: the verdict in a sentence.
        sentence_zh: in Chinese; empty in a file of an earlier version.
        rules: of the verdict.
        measures: in the file's order.
        samples: for each prompt its text, the reference and the answers by the model's name.
        created: date and time.
        seconds: that it took.
    """

    models: tuple[str, ...]
    outcome: str
    sentence: str
    sentence_zh: str
    rules: tuple[Rule, ...]
    measures: tuple[Measure, ...]
    samples: tuple[tuple[str, str | None, Mapping[str, str]], ...]
    created: str
    seconds: float | None


def read_evaluation(folder: Path) -> tuple[Evaluation | None, State]:
    """That of a run's folder; None where there is none that can be read."""
    found, state = read_object(folder / FILE)
    return (None if state is not State.WHOLE else evaluation_of(found)), state


def evaluation_of(found: Mapping[str, Any]) -> Evaluation:
    """The evaluation of a file's object."""
    verdict = mapping(found.get("verdict"))
    measures = tuple(_measure(one) for one in objects(found.get("measures")))
    named = tuple(name for one in objects(found.get("models")) if (name := text(one.get("name"))))
    return Evaluation(
        models=named or tuple(dict.fromkeys(name for one in measures for name in one.values)),
        outcome=text(verdict.get("outcome")),
        sentence=text(verdict.get("text")),
        sentence_zh=text(verdict.get("text_zh")),
        rules=tuple(
            Rule(text(one.get("name")), truth(one.get("passed")), text(one.get("text")), text(one.get("text_zh")))
            for one in objects(verdict.get("rules"))
        ),
        measures=measures,
        samples=tuple(_sample(one) for one in objects(found.get("samples"))),
        created=text(found.get("created")),
        seconds=number(found.get("seconds")),
    )


def _measure(one: Mapping[str, Any]) -> Measure:
    better = text(one.get("better"))
    return Measure(
        name=text(one.get("name")),
        unit=text(one.get("unit")),
        better=better if better in ("lower", "higher") else "",
        num_items=count(one.get("n")),
        values=numbers(one.get("values")),
        intervals={
            name: pair for name, ends in mapping(one.get("intervals")).items() if (pair := _pair(ends)) is not None
        },
        difference=_difference(mapping(one.get("difference"))),
    )


def _pair(ends: Any) -> tuple[float, float] | None:
    if not isinstance(ends, list) or len(ends) != 2:
        return None
    low, high = map(number, ends)
    return None if low is None or high is None else (low, high)


def _difference(one: Mapping[str, Any]) -> Difference | None:
    estimate, low, high = (number(one.get(name)) for name in ("estimate", "low", "high"))
    if estimate is None or low is None or high is None:
        return None
    return Difference(estimate, low, high, number(one.get("smallest")))


def _sample(one: Mapping[str, Any]) -> tuple[str, str | None, Mapping[str, str]]:
    reference = one.get("reference")
    answers = {name: answer for name, answer in mapping(one.get("answers")).items() if isinstance(answer, str)}
    return text(one.get("prompt")), reference if isinstance(reference, str) else None, answers
