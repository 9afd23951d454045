"""Measures of the evaluation in groups for one run, and side by side for several."""

from collections.abc import Sequence
from dataclasses import dataclass

from yangtuo.report.evaluation import Evaluation, Measure
from yangtuo.report.facts import RunFacts

_KNOWN = ("own", "probe", "choice")
_SHOWN = 10  # of a group; the others are folded away


@dataclass(frozen=True)
class Group:
    """Measures of one kind: own, probe, choice, or an empty name for others; `more` are folded away."""

    name: str
    shown: tuple[Measure, ...]
    more: tuple[Measure, ...]


def groups_of(evaluation: Evaluation | None) -> list[Group]:
    """The groups that have any, in their order. Of a long one, the measures with the shortest names come first."""
    if evaluation is None:
        return []
    found = []
    for name in (*_KNOWN, ""):
        own = [one for one in evaluation.measures if _group(one) == name]
        if len(own) > _SHOWN:
            own.sort(key=lambda one: one.name.count("/") > (1 if name != "choice" else 2) or _is_part(one))
        if own:
            found.append(Group(name, tuple(own[:_SHOWN]), tuple(own[_SHOWN:])))
    return found


def _group(measure: Measure) -> str:
    first = measure.name.split("/")[0]
    return first if first in _KNOWN else ""


def _is_part(measure: Measure) -> bool:
    """Whether it is of one subject of a set of questions, whose measure of all is called accuracy."""
    return measure.name.startswith("choice/") and not measure.name.endswith("/accuracy")


@dataclass(frozen=True)
class Beside:
    """A measure of several runs: its name and unit, and of each run the last model's value, or none."""

    name: str
    unit: str
    better: str
    values: tuple[float | None, ...]

    @property
    def best(self) -> float | None:
        """The best of the values; None where they are one, or neither end is better."""
        known = {value for value in self.values if value is not None}
        if not self.better or len(known) < 2:
            return None
        return min(known) if self.better == "lower" else max(known)


def beside(runs: Sequence[RunFacts]) -> list[Beside]:
    """Every measure that at least one run has, but for parts of sets of questions."""
    by_name: dict[str, Measure] = {}
    for run in runs:
        for one in run.evaluation.measures if run.evaluation else ():
            if not _is_part(one):
                by_name.setdefault(one.name, one)
    return [
        Beside(one.name, one.unit, one.better, tuple(_value(run, one.name) for run in runs)) for one in by_name.values()
    ]


def _value(run: RunFacts, name: str) -> float | None:
    evaluation = run.evaluation
    if evaluation is None:
        return None
    found = next((one for one in evaluation.measures if one.name == name), None)
    return found.values.get(evaluation.models[-1]) if found and evaluation.models else None
