"""The items of a probe set: questions, instructions and passages that show whether a model can still do what it could.

The bundled set lies in `probe_set/`, with a README that says what is in it and how it was checked. A file of a user's
own has the same form: one JSON object a line.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yangtuo.data.readers.files import values_of
from yangtuo.data.readers.json_rows import Doubled
from yangtuo.data.readers.shown import found, keys_of, short, shown
from yangtuo.data.records import Value
from yangtuo.errors import DataError
from yangtuo.evaluation.probe_checks import RULES, Check, argument_fault
from yangtuo.i18n import Listed, Message

PROBE_SET = Path(__file__).with_name("probe_set")
LANGUAGES = ("zh", "en")
PASSAGE = "passage"
NUM_OPTIONS = 4
_KEYS: dict[str, tuple[str, ...]] = {
    Message("a passage"): ("id", "language", "kind", "text"),
    Message("a question with options"): ("id", "language", "kind", "prompt", "options", "answer"),
    Message("an instruction with a check"): ("id", "language", "kind", "prompt", "check"),
}
_KIND = re.compile(r"[a-z][a-z0-9_]*")
_MEASURES = ("accuracy", "loss")  # names of measures, which a kind must not take


@dataclass(frozen=True)
class ChoiceItem:
    """A question whose options are compared by their log-likelihood behind it.

    Attributes:
        id: unique in the set.
        language: "zh" or "en".
        kind: what it asks for, as "facts"; a word for the names of measures.
        prompt: what the user says.
        options: four answers.
        answer: index of the right one, from 0.
    """

    id: str
    language: str
    kind: str
    prompt: str
    options: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class CheckedItem:
    """An instruction whose generated answer a rule looks at; `id` to `prompt` as in `ChoiceItem`.

    Attributes:
        id: unique in the set.
        language: of the prompt; the answer's is `check`'s to say.
        kind: what it asks for, as "instruction".
        prompt: what the user says.
        check: when the answer is right.
    """

    id: str
    language: str
    kind: str
    prompt: str
    check: Check


@dataclass(frozen=True)
class Passage:
    """A text whose tokens' cross-entropy is taken, without a template around it.

    Attributes:
        id: unique in the set.
        language: "zh" or "en".
        text: some sentences.
    """

    id: str
    language: str
    text: str


Item = ChoiceItem | CheckedItem | Passage


def bundled_items() -> tuple[Item, ...]:
    """The probe set that comes with the package, in the order of its files' names."""
    return read_items(sorted(PROBE_SET.glob("*.jsonl")))


def read_items(paths: Iterable[Path]) -> tuple[Item, ...]:
    """The items of some files, in order.

    Raises:
        DataError: a file cannot be read or holds no item; or rows that are no items, all of them named with file,
            row, key and what is allowed, also those with an id that another row has.
    """
    items: list[Item] = []
    problems: list[str] = []
    places: dict[str, str] = {}
    for path in paths:
        for value in values_of(path)[1]:
            place = f"{path}: row {value.row + 1}" + (f" (line {value.line})" if value.line else "")
            faults = list(_row_faults(value))
            if not faults and (before := places.setdefault(value.content["id"], place)) != place:
                faults = [
                    Message(
                        "'id' is {id}, which {before} has too; give each item its own",
                        id=short(value.content["id"]),
                        before=before,
                    )
                ]
            problems += [Message("{where}: {fault}", where=place, fault=fault) for fault in faults]
            if not faults:
                items.append(_item(value.content))
    if problems:
        raise DataError.of_problems(Message("probe items"), problems)
    return tuple(items)


def best_option(scores: Sequence[float]) -> int | None:
    """Index of the likeliest option; None where none is, so that a model that knows nothing gets no point by order.

    `scores` are the log-likelihoods of the options, each summed over its tokens, in nats. Options are of about one
    length: divided by their tokens, SmolLM2-135M had fewer of them right (11 of 28 facts instead of 17, in English).
    """
    if not scores or not all(map(math.isfinite, scores)):
        return None
    best = max(scores)
    return scores.index(best) if Counter(scores)[best] == 1 else None


def _item(row: dict[str, Any]) -> Item:
    if row["kind"] == PASSAGE:
        return Passage(row["id"], row["language"], row["text"])
    begin = (row["id"], row["language"], row["kind"], row["prompt"])
    if "options" in row:
        return ChoiceItem(*begin, tuple(row["options"]), row["answer"])
    check = row["check"]
    value = check.get(RULES[check["rule"]].argument.value[0])
    return CheckedItem(*begin, Check(check["rule"], tuple(value) if isinstance(value, list) else value))


def _row_faults(value: Value) -> Iterator[str]:
    row = value.content
    if value.fault:
        yield value.fault
        return
    if not isinstance(row, dict):
        yield Message("it is {row}; expected an object with the keys of {forms}", row=found(row), forms=_forms())
        return
    if isinstance(row, Doubled):
        yield Message("the key {key} stands twice; keep one of them", key=shown(row.key))
    form = _form(row)
    missing = [key for key in _KEYS[form] if key not in row]
    other = [shown(key) for key in row if key not in _KEYS[form]]
    if missing:
        yield Message(
            "missing: {missing} (keys: {keys}); expected {forms}",
            missing=", ".join(map(repr, missing)),
            keys=keys_of(row),
            forms=_forms(),
        )
    if other:
        yield Message(
            "{form} has no key {other}; expected {forms}", form=form, other=", ".join(map(repr, other)), forms=_forms()
        )
    for key in _KEYS[form]:
        if key in row:
            yield from _value_faults(row, key)


def _value_faults(row: dict[str, Any], key: str) -> Iterator[str]:
    value = row[key]
    if key in ("id", "kind", "prompt", "text") and not _is_text(value):
        yield Message("{key!r} is {value}; expected a text that is not empty", key=key, value=found(value))
    elif key == "language" and value not in LANGUAGES:
        yield Message('\'language\' is {value}; expected "zh" or "en"', value=found(value))
    elif key == "kind" and (not _KIND.fullmatch(value) or value in _MEASURES):
        yield Message(
            "'kind' is {value}; expected a word of small letters, digits and _, such as facts, which is not {measures}",
            value=short(value),
            measures=Listed(_MEASURES, " or "),
        )
    elif key == "options":
        yield from _option_faults(value)
    elif key == "answer" and not _is_index(value):
        yield Message(
            "'answer' is {value}; expected the index of the right option, from 0 to {num_options}",
            value=found(value),
            num_options=NUM_OPTIONS - 1,
        )
    elif key == "check":
        yield from _check_faults(value)


def _form(row: dict[str, Any]) -> str:
    if row.get("kind") == PASSAGE:
        return Message("a passage")
    return (
        Message("a question with options")
        if "options" in row or "answer" in row
        else Message("an instruction with a check")
    )


def _forms() -> str:
    forms = [Message("{keys} for {form}", keys=", ".join(keys), form=form) for form, keys in _KEYS.items()]
    return Listed(forms, "; ")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < NUM_OPTIONS


def _option_faults(options: Any) -> Iterator[str]:
    is_list = isinstance(options, list) and len(options) == NUM_OPTIONS and all(map(_is_text, options))
    if not is_list or len(set(options)) < NUM_OPTIONS:
        yield Message(
            "'options' is {options}; expected {num_options} different texts, none of them empty",
            options=found(options),
            num_options=NUM_OPTIONS,
        )


def _check_faults(check: Any) -> Iterator[str]:
    if not isinstance(check, dict) or not isinstance(rule := check.get("rule"), str) or rule not in RULES:
        yield Message(
            "'check' is {check}; expected an object with 'rule', which is one of {rules}",
            check=found(check),
            rules=", ".join(RULES),
        )
        return
    key = RULES[rule].argument.value[0]
    allowed = [name for name in ("rule", key) if name]
    other = [shown(name) for name in check if name not in allowed]
    if other:
        yield Message(
            "'check' has {other}; the rule {rule} has only {allowed}",
            other=", ".join(map(repr, other)),
            rule=rule,
            allowed=" and ".join(map(repr, allowed)),
        )
    if fault := argument_fault(rule, check.get(key)):
        yield Message(
            "{key!r} of the check {rule} is {check}; {fault}",
            key=key,
            rule=rule,
            check=found(check.get(key)),
            fault=fault,
        )
