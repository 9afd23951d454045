"""The table of options: everything that is known of each, once, and how argparse is told.

Ours are the fields of the dataclasses in `schema`; those of transformers' `TrainingArguments` are put together from
`training_fields.json` and the rules in `trainer_options`; names of earlier versions are in `old_options`.

`training_fields.json` is a copy, since loading transformers for them takes seconds; a test holds it equal to the
dataclass, and `python -m tests.training_fields` writes it anew. An option is spelled as transformers' own parser spells
it: `--a_name` or `--a-name`, switches bare or with a value, and `--no_a_name` for a switch that is on by default.
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

from yangtuo.config.old_options import RENAMED
from yangtuo.config.schema import OUR_GROUPS, Decides
from yangtuo.config.trainer_options import GROUP_OF, RARE, SENTENCES, TRAINING_ARGUMENTS, ArgHandling
from yangtuo.i18n import Message

_KINDS: dict[str, type] = {kind.__name__: kind for kind in (str, int, float, bool)}


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: without dashes.
        kind: of its value.
        default: when it is not given.
        decides: what of a run's result; the recipe of a run is computed from this.
        group: under which `--help` has it.
        handling: whether this program does it, transformers does, or nobody.
        reason: why it is not simply passed on.
        nargs: see argparse.
        const: see argparse.
        choices: the words that it takes, where there are only some.
        help: a sentence; None for transformers' own until somebody asks, see `transformers_help`.
        aliases: other spellings that stay.
        old_names: of earlier versions, each said when it is given.
    """

    name: str
    kind: type
    default: Any
    decides: Decides
    group: str
    handling: ArgHandling = ArgHandling.OURS
    reason: str = ""
    nargs: str | None = None
    const: Any = None
    choices: Sequence[str] | None = None
    help: str | None = None
    aliases: Sequence[str] = ()
    old_names: Sequence[str] = ()


def _training_options() -> Iterator[Option]:
    text = Path(__file__).with_name("training_fields.json").read_text(encoding="utf-8")
    for name, row in json.loads(text).items():
        rule = TRAINING_ARGUMENTS[name]
        yield Option(
            name,
            _KINDS[row.pop("kind")],
            row.pop("default"),
            rule.decides,
            GROUP_OF.get(name, RARE),
            rule.handling,
            rule.reason,
            help=Message("Not supported: {reason}.", reason=rule.reason)
            if rule.handling is ArgHandling.REFUSED
            else SENTENCES.get(name),
            old_names=_old_names(name),
            **row,
        )


def _old_names(today: str) -> tuple[str, ...]:
    return tuple(old for old, name in RENAMED.items() if name == today)


def options_of(group: Any) -> Iterator[Option]:
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
        yield Option(
            field.name,
            kind,
            field.default,
            group=group.group,
            choices=choices,
            old_names=_old_names(field.name),
            **field.metadata,
        )


TRAINING_OPTIONS = {option.name: option for option in _training_options()}
OPTIONS = {**{option.name: option for group in OUR_GROUPS for option in options_of(group)}, **TRAINING_OPTIONS}


def training_default(name: str) -> Any:
    """The default of a field of `TrainingArguments`, the caller's own to change."""
    return copy.copy(TRAINING_OPTIONS[name].default)


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
    raise argparse.ArgumentTypeError(
        Message("{word!r} is neither true nor false (yes and no, t and f, y and n, 1 and 0 too)", word=word)
    )
