"""`results.json`, `answers.jsonl`, and the table on the screen: what an evaluation found."""

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yangtuo import output
from yangtuo.evaluation.measures import Measure
from yangtuo.evaluation.verdict import OWN_TEXT_LOSS, Verdict, judge
from yangtuo.i18n import with_chinese

RESULTS_FILE, ANSWERS_FILE, FOLDER = "results.json", "answers.jsonl", "evaluation"
_VERSION = 1


@dataclass(frozen=True)
class Evaluation:
    """All that was found.

    Attributes:
        models: name, path, adapter and dtype of each, in order.
        template: name of the text around prompts.
        data: files of own rows with their hash and number of rows.
        measures: see `Measure`.
        verdict: of the last model against the first; None with one model.
        changed: ids of probe items that the last model lost and gained.
        samples: some questions with all answers.
        computed: cells that were computed for so many tokens.
    """

    models: list[dict[str, Any]]
    template: str
    data: list[dict[str, Any]]
    measures: list[Measure]
    verdict: Verdict | None
    changed: dict[str, list[str]]
    samples: list[dict[str, Any]]
    computed: dict[str, int]

    @property
    def names(self) -> list[str]:
        """Of the models, in order."""
        return [str(model["name"]) for model in self.models]


def verdict_of(measures: Sequence[Measure], names: Sequence[str]) -> Verdict | None:
    """The verdict of the last model against the first; None with one model."""
    return judge([one.compared(names[0], names[-1]) for one in measures]) if len(names) > 1 else None


def as_json(found: Evaluation, versions: Mapping[str, str], seconds: float) -> dict[str, Any]:
    """What `results.json` holds."""
    verdict = None
    if found.verdict:
        rules = [
            {"name": rule.name, "passed": rule.passed, **with_chinese("text", rule.text)}
            for rule in found.verdict.rules
        ]
        verdict = {"outcome": str(found.verdict.outcome), **with_chinese("text", found.verdict.text), "rules": rules}
    return {
        "version": _VERSION,
        "versions": dict(versions),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seconds": round(seconds, 3),
        "models": found.models,
        "template": found.template,
        "data": found.data,
        "measures": [measure.as_json() for measure in found.measures],
        "verdict": verdict,
        "probe_items": found.changed,
        "samples": found.samples,
        "computed": found.computed,
    }


def write(folder: Path, value: Mapping[str, Any], answers: Iterable[Mapping[str, Any]]) -> None:
    """Both files.

    Raises:
        WriteError: one cannot be written.
    """
    with output.whole_file(folder / ANSWERS_FILE) as file:
        file.writelines(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)
    output.write_json(folder / RESULTS_FILE, value)


# ---- on the screen

_SHOWN = (
    *("own/loss", OWN_TEXT_LOSS, "own/perplexity", "own/token_accuracy"),
    *("own/exact_match", "own/rouge1", "own/rouge2", "own/rougeL"),
    *("own/bleu", "own/chrf", "own/as_llamafactory/bleu-4", "own/as_llamafactory/rouge-l"),
    *("own/ended", "own/repetition", "own/length"),
)


@dataclass(frozen=True)
class Line:
    """A line of the table: its measure, a value for each model, and what the last one gained.

    Attributes:
        name: of the measure.
        values: as text, one a model.
        change: as text, with its interval; "" without one.
        is_good: whether the change is shown to be one for the better; None where neither is shown.
    """

    name: str
    values: tuple[str, ...]
    change: str
    is_good: bool | None


def lines(measures: Sequence[Measure], names: Sequence[str]) -> list[Line]:
    """The table: own data, the probe by language and kind, and of benchmarks their totals and groups."""
    known = {measure.name: measure for measure in measures}
    chosen = [known[name] for name in _SHOWN if name in known]
    chosen += [measure for measure in measures if measure.name.startswith("probe/")]
    chosen += [one for one in measures if one.name.startswith("choice/") and not one.is_detail]
    return [_line(measure, names) for measure in chosen]


def _line(measure: Measure, names: Sequence[str]) -> Line:
    values = tuple(number(measure.estimates[name].value, measure.unit) for name in names)
    difference = measure.differences.get(names[-1])
    if difference is None:
        return Line(measure.name, values, "", None)
    change = _signed(difference.estimate, measure.unit)
    if difference.interval:
        change += f" [{', '.join(_signed(end, measure.unit) for end in difference.interval)}]"
    sign = {"higher": 1, "lower": -1, None: 0}[measure.better]
    is_good = None
    if sign:
        is_good = True if difference.is_better(sign) else False if difference.is_worse(sign) else None
    return Line(measure.name, values, change, is_good)


def number(value: float, unit: str) -> str:
    """A value as a reader wants it: shares in percent."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    if unit == "share":
        return f"{value:.1%}"
    if unit.startswith("nats/"):
        return f"{value:.4f}"
    return f"{value:,.1f}" if abs(value) < 1e5 else f"{value:.2e}"


def _signed(value: float, unit: str) -> str:
    if unit == "share" and math.isfinite(value):
        return f"{100 * value:+.1f}"
    text = number(value, unit)
    return text if text.startswith("-") or not math.isfinite(value) else f"+{text}"
