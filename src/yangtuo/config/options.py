"""Options as argparse takes them: from the fields of a dataclass of ours, and from the table of transformers' own.

The table, `training_fields.json`, has the fields of transformers' `TrainingArguments`, since loading transformers for
them takes seconds. A test holds it equal to the dataclass, and `python -m tests.training_fields` writes it anew. An
option is spelled as transformers' own parser spells it: `--a_name` or `--a-name`, switches bare or with a value, and
`--no_a_name` for a switch that is on by default.
"""

import argparse
import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from yangtuo.config.schema import Decides

_KINDS: dict[str, type] = {kind.__name__: kind for kind in (str, int, float, bool)}


@dataclass(frozen=True)
class Option:
    """One option: the `kind` of its value, what of a result it decides, and what argparse wants to know.

    `help` is None until somebody asks; `decides` is None for fields of `TrainingArguments`, see `trainer_options`.
    """

    name: str
    kind: type
    default: Any
    nargs: str | None = None
    const: Any = None
    choices: Sequence[str] | None = None
    help: str | None = None
    aliases: Sequence[str] = ()
    decides: Decides | None = None


def _training_options() -> Iterator[Option]:
    text = Path(__file__).with_name("training_fields.json").read_text(encoding="utf-8")
    for name, row in json.loads(text).items():
        yield Option(name, _KINDS[row.pop("kind")], **row)


TRAINING_OPTIONS = {option.name: option for option in _training_options()}


def training_default(name: str) -> Any:
    """The default of a field of `TrainingArguments`, the caller's own to change."""
    return copy.copy(TRAINING_OPTIONS[name].default)


def options_of(group: type) -> Iterator[Option]:
    """The fields of a dataclass as options; `help` and `aliases` are in a field's metadata.

    Raises:
        TypeError: a field's type is none of str, int, float, bool and a StrEnum, each also with `| None`.
    """
    hints = get_type_hints(group)
    for field in fields(group):
        hint = hints[field.name]
        parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        kind, *more = (part for part in parts if part is not NoneType)
        choices = None
        if isinstance(kind, type) and issubclass(kind, StrEnum):
            choices = [member.value for member in kind]
            kind = str
        if more or kind not in _KINDS.values():
            raise TypeError(f"{group.__name__}.{field.name}: no option can have the type {hint}")
        yield Option(field.name, kind, field.default, choices=choices, **field.metadata)


def add(parser: argparse.ArgumentParser, option: Option) -> None:
    """Make a parser take an option."""
    dashed = option.name.replace("_", "-")
    names = list(dict.fromkeys([f"--{option.name}", f"--{dashed}", *option.aliases]))
    if option.kind is not bool:
        parser.add_argument(
            *names,
            type=option.kind,
            default=option.default,
            nargs=option.nargs,
            const=option.const,
            choices=option.choices,
            help=option.help,
        )
        return
    parser.add_argument(*names, type=_truth, default=option.default, nargs="?", const=True, help=option.help)
    if option.default is True:
        off = (f"--no_{option.name}", f"--no-{dashed}")
        parser.add_argument(*off, action="store_false", dest=option.name, default=False, help=option.help)


def _truth(word: str) -> bool:
    if word.lower() in ("true", "yes", "t", "y", "1"):
        return True
    if word.lower() in ("false", "no", "f", "n", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{word!r} is neither true nor false (yes and no, t and f, y and n, 1 and 0 too)")
