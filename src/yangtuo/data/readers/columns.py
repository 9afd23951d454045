"""`--columns`: which column of a file is which field of a format, and rows whose columns are renamed so.

Columns go by their names, or by their places from 0 in files that have no line of names: {"0": "instruction", ...}.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from yangtuo.config.choices import DataFormat
from yangtuo.config.unique_keys import unique
from yangtuo.config.words import did_you_mean, signs_in_ascii, wide_signs, with_signs
from yangtuo.data.readers import names
from yangtuo.data.readers.formats import COLUMNS
from yangtuo.data.readers.json_rows import Doubled
from yangtuo.data.readers.shown import keys_of
from yangtuo.errors import UsageError
from yangtuo.i18n import Listed, Message

_FIELDS = sorted(set().union(*COLUMNS.values()))
_EXAMPLE = '{"客户问题": "instruction", "客服回答": "output"}'
# Of LLaMA-Factory's dataset_info.json, which names the field first.
_THEIR_FIELDS = {"prompt": "instruction", "query": "input", "response": "output"}


@dataclass(frozen=True)
class Columns:
    """What `--columns` says.

    Attributes:
        pairs: columns and their fields, sorted; None for a column that is not used.
        data_format: of the rows; None where the fields fit several.
    """

    pairs: tuple[tuple[str, str | None], ...]
    data_format: DataFormat | None

    @cached_property
    def fields(self) -> Mapping[str, str | None]:
        """Field by column."""
        return dict(self.pairs)

    @property
    def by_place(self) -> bool:
        """Whether columns are counted rather than named."""
        return all(_is_place(column) for column, _ in self.pairs)


class Renaming:
    """Makes rows of known fields out of a file's own columns.

    Attributes:
        fields: field by column; None for a column that is not used.
        unseen: columns that no row has had yet.
        displaced: columns that have the name of a field, which another column is; they are not used.
    """

    def __init__(self, fields: Mapping[str, str | None], needed: frozenset[str], *, may_displace: bool = False):
        self.fields, self.needed, self._may_displace = fields, needed, may_displace
        self.unseen, self.displaced = set(fields), set[str]()
        self._column_of = {field: column for column, field in fields.items() if field}
        self._taken = self._column_of.keys() - fields.keys()

    def __call__(self, row: Any) -> tuple[Any, list[str]]:
        """The row with fields for keys, and what is wrong with it."""
        if isinstance(row, list):
            row = {str(place): value for place, value in enumerate(row)}
        if not isinstance(row, dict) or isinstance(row, Doubled):
            return row, []
        if self.unseen:
            self.unseen -= row.keys()
        faults: list[str] = [
            Message("no {column!r} (keys: {keys}); it is the {field}", column=column, keys=keys_of(row), field=field)
            for field, column in self._column_of.items()
            if field in self.needed and column not in row
        ]
        displaced = self._taken & row.keys()
        if displaced and not self._may_displace:
            faults += [
                Message(
                    "has both {name!r} and {column!r}, of which the file's first row has {column!r} alone; say which "
                    "is which with --columns",
                    name=name,
                    column=self._column_of[name],
                )
                for name in sorted(displaced)
            ]
        self.displaced |= displaced
        renamed = {self.fields.get(key, key): value for key, value in row.items() if key not in displaced}
        renamed.pop(None, None)
        return renamed, faults

    def named(self, fault: str) -> str:
        """A fault of a row in the names of the file."""
        if isinstance(fault, Message) and (field := fault.values.get("key")) in self._column_of:
            return fault.with_values(key=self._column_of[field])
        return re.sub(r"^'(\w+)", lambda match: f"'{self._column_of.get(match[1], match[1])}", fault)

    def told(self) -> str:
        """What is read as what."""
        return Listed(
            Message("{column} as {field}", column=column, field=field)
            if field
            else Message("{column} not used", column=column)
            for column, field in self._told()
        )

    def _told(self) -> Iterator[tuple[str, str | None]]:
        yield from ((column, field) for column, field in self.fields.items() if column != field)


def parse(text: str, data_format: DataFormat = DataFormat.AUTO) -> Columns:
    """What the option says; `data_format` is that of `--format`.

    Raises:
        UsageError: everything that is wrong with it.
    """
    try:
        given = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        reason = _no_json(text) or Message("not JSON; write it as '{json}'", json=_meant(text, data_format))
        raise UsageError("--columns {text}: {reason}", text=text, reason=reason) from error
    except ValueError as error:
        raise UsageError("--columns {text}: {reason}", text=text, reason=error) from error
    if not isinstance(given, dict) or not given:
        raise UsageError("--columns {text}: expected columns and fields, as {example}", text=text, example=_EXAMPLE)
    problems = list(_problems(given, data_format))
    if problems:
        raise UsageError.of_problems("--columns", problems)
    return Columns(tuple(sorted(given.items())), _format_of({field for field in given.values() if field}, data_format))


def _problems(given: Mapping[str, Any], data_format: DataFormat) -> Iterator[str]:
    turned = {column: _THEIR_FIELDS.get(field, field) for field, column in given.items() if isinstance(column, str)}
    if len(turned) == len(given) and not turned.keys() & set(_FIELDS) and set(turned.values()) <= set(_FIELDS):
        yield Message("the file's column comes first, then the field; did you mean '{json}'?", json=_json(turned))
        return
    if not any(given.values()):
        told = Message("no column is given a field; expected columns and fields, as {example}", example=_EXAMPLE)
        yield with_signs(told, "".join(given) if set(given.values()) == {None} else "")
    for column, field in given.items():
        if not isinstance(field, str | None):
            yield Message(
                "{column!r} is {json}; expected a field, or null for a column that is not used",
                column=column,
                json=_json(field),
            )
        elif field is not None and field not in _FIELDS:
            meant = names.field_of(field)
            hint = (
                Message("here it is {meant!r}", meant=meant)
                if meant
                else did_you_mean(field, _FIELDS, Message("there are {fields}", fields=", ".join(_FIELDS)))
            )
            yield Message("{column!r}: no format has a field {field!r}; {hint}", column=column, field=field, hint=hint)
    fields = [field for field in given.values() if isinstance(field, str)]
    for field in dict.fromkeys(field for field in fields if fields.count(field) > 1):
        both = Listed((repr(column) for column, other in given.items() if other == field), " and ")
        yield Message("{both} are the field {field!r}; a field is one column", both=both, field=field)
    known = set(fields) & set(_FIELDS)
    if known and not _formats_with(known, data_format):
        fields_, listed = ", ".join(sorted(known)), _listed(data_format)
        if data_format is DataFormat.AUTO:
            yield Message("no format has all of the fields {fields}: {listed}", fields=fields_, listed=listed)
        else:
            yield Message(
                "--format {data_format} has not all of the fields {fields}: {listed}",
                data_format=data_format,
                fields=fields_,
                listed=listed,
            )


def _format_of(fields: set[str], data_format: DataFormat) -> DataFormat | None:
    fitting = _formats_with(fields, data_format)
    return fitting[0] if len(fitting) == 1 else None


def _formats_with(fields: set[str], data_format: DataFormat) -> list[DataFormat]:
    return [name for name, has in COLUMNS.items() if fields <= has and data_format in (name, DataFormat.AUTO)]


def _listed(data_format: DataFormat) -> str:
    return "; ".join(
        f"{name}: {', '.join(sorted(has))}" for name, has in COLUMNS.items() if data_format in (name, DataFormat.AUTO)
    )


def _no_json(text: str) -> str:
    """What is said of a text that would be JSON in other signs; "" where it would not."""
    meant, signs = signs_in_ascii(text), wide_signs(text)
    for guess in {meant, meant.replace("'", '"')} - {text}:
        try:
            json.loads(guess)
        except ValueError:
            continue
        return Message(
            "{signs}; did you mean '{guess}'?",
            signs=Listed(signs or [Message("JSON has double quotes")], "; "),
            guess=guess,
        )
    return ""


def _meant(text: str, data_format: DataFormat) -> str:
    """The JSON of a text such as `{column: field}` or `column=field, column=field`; an example where it is neither."""
    inside = signs_in_ascii(text).strip().removeprefix("{").removesuffix("}")
    pairs = [[word.strip(" \t\"'") for word in re.split("[:=]", pair)] for pair in inside.split(",")]
    if not all(len(pair) == 2 and all(pair) for pair in pairs):
        return _EXAMPLE
    given = {column: None if field == "null" else field for column, field in pairs}
    turned = {field: column for column, field in pairs}
    fitting = (one for one in (given, turned) if len(one) == len(pairs) and not list(_problems(one, data_format)))
    return next(map(_json, fitting), _EXAMPLE)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _is_place(column: str) -> bool:
    return column.isascii() and column.isdecimal()
