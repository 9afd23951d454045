"""Keyword arguments of the API -> the same settings and options that the command line makes of its words."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, get_args, get_type_hints

from yangtuo.config.files import flags_of
from yangtuo.config.parser import build_parser, parse
from yangtuo.config.settings import Settings
from yangtuo.config.words import did_you_mean
from yangtuo.errors import UsageError
from yangtuo.i18n import Message

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Option: TypeAlias = str | int | float | bool | os.PathLike[str] | Sequence[str] | Mapping[str, Any] | None
"""A value of an option: as on the command line, or a path, a list, or a mapping for JSON. None: as if not given."""

_ORIGIN = "Python"  # what run.json says of where an option came from
_WORDS = {bool: Message("True or False"), int: Message("a whole number"), float: Message("a number"), str: "text"}
_T = TypeVar("_T", bound="DataclassInstance")


def settings_of(function: str, options: Mapping[str, Option]) -> Settings:
    """The settings of a run, by the rules of the command line.

    Args:
        function: as the caller named it, for messages.
        options: by the names of the command line, without dashes.

    Raises:
        UsageError: all unknown options at once, each with the nearest known name; a wrong value; a refused option.
    """
    parser = build_parser(function)
    values = {name: _plain(value, name in _LISTS_WITH_COMMAS) for name, value in options.items()}
    if "config" in values:
        raise UsageError(
            "{function}: config: give the file's options as keywords, as **yaml.safe_load(...)", function=function
        )
    flags, problems = flags_of(values, {}, parser)
    if problems:
        raise UsageError.of_problems(function, problems)
    return parse(flags, parser, origin=_ORIGIN)[0]


# Several values of these stand in one word on the command line.
_LISTS_WITH_COMMAS = ("train_file", "validation_file", "dataset_dir", "mix", "layers_to_transform")


def _plain(value: Any, with_commas: bool) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        parts = [os.fspath(one) if isinstance(one, os.PathLike) else one for one in value]
        return ",".join(map(str, parts)) if with_commas else parts
    return value


def options_of(
    kind: type[_T],
    function: str,
    options: Mapping[str, Option],
    given: Mapping[str, Any] | None = None,
    also: Sequence[str] = (),
) -> _T:
    """A dataclass of options from keywords; None counts as not given.

    Args:
        kind: the dataclass.
        function: as the caller named it, for messages.
        options: keywords.
        given: values of other fields, which are as they should be.
        also: names that the function knows besides, for what was probably meant.

    Raises:
        UsageError: all that is unknown, missing or of another type.
    """
    hints, own = get_type_hints(kind), {field.name: field for field in fields(kind)}
    values: dict[str, Any] = dict(given or {})
    problems: list[str] = []
    known = [*own, *also]
    told = Message("there are {known}", known=", ".join(known))
    for name, value in options.items():
        if name not in own:
            problems.append(Message("unknown option {name!r}; {hint}", name=name, hint=did_you_mean(name, known, told)))
        elif value is not None:
            try:
                values[name] = _converted(hints[name], value)
            except TypeError as error:
                problems.append(Message("{name}={value!r}: expected {error}", name=name, value=value, error=error))
    needed = (name for name, field in own.items() if field.default is MISSING and field.default_factory is MISSING)
    problems += [Message("{name} is missing", name=name) for name in needed if name not in values and not problems]
    if problems:
        raise UsageError.of_problems(function, problems)
    return kind(**values)


def _converted(hint: Any, value: Any) -> Any:
    """A value of the type of a field, as a command line would have it."""
    parts = [part for part in (get_args(hint) or (hint,)) if part is not NoneType]
    wanted = parts[0]
    if wanted is str:
        if isinstance(value, Mapping):
            return json.dumps(value, ensure_ascii=False)
        if isinstance(value, list | tuple) and all(isinstance(one, str | os.PathLike) for one in value):
            return ",".join(map(os.fspath, value))
        if isinstance(value, str | os.PathLike):
            return os.fspath(value)
    elif isinstance(value, bool):
        if wanted is bool:
            return value
    elif isinstance(value, int) and wanted in (int, float):
        return wanted(value)
    elif isinstance(value, float) and wanted is float:
        return value
    raise TypeError(_WORDS[wanted])


def one_of(function: str, name: str, value: str | None, allowed: Sequence[str]) -> None:
    """Refuse a word that is none of those that an option takes.

    Raises:
        UsageError: it is none.
    """
    if value is not None and value not in allowed:
        known = did_you_mean(value, allowed, Message("there are {allowed}", allowed=", ".join(allowed)))
        raise UsageError(
            "{function}: {name}={value!r}; {known}", function=function, name=name, value=value, known=known
        )
