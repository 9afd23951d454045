"""What the rows of a file are, told by its first row: a known format, columns to rename, a published layout.

Rows that need no change cost nothing: a file's layout is found once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from yangtuo.config.choices import DataFormat
from yangtuo.config.words import did_you_mean
from yangtuo.data.readers import names, published
from yangtuo.data.readers.columns import Columns, Renaming
from yangtuo.data.readers.shown import columns_of, keys_of, shown
from yangtuo.i18n import Listed, Message

_TELLING = {  # a format is told by these keys
    DataFormat.MESSAGES: {"messages"},
    DataFormat.SHAREGPT: {"conversations"},
    DataFormat.PROMPT_COMPLETION: {"prompt", "completion"},
    DataFormat.ALPACA: {"instruction", "output"},
}
_NEAR = 0.7  # as difflib counts: one character of four, since Chinese names are short
_LISTS = ("conversation", "dialogue", "dialog", "chat", "对话")  # of turns with roles, under another name


@dataclass(frozen=True)
class Layout:
    """How the rows of a file are read.

    Attributes:
        data_format: what they are, or are made into.
        as_known: makes a row of that format, and says what is wrong with it; None where rows are it as they stand.
        told: what is read as what, for the user; "" where there is nothing to tell.
        renaming: `as_known`, where it renames columns.
        is_asked: whether `--columns` decided.
    """

    data_format: DataFormat
    as_known: Callable[[Any], tuple[Any, list[str]]] | None = None
    told: str = ""
    renaming: Renaming | None = None
    is_asked: bool = False


def layout_of(
    first: Any, *, data_format: DataFormat = DataFormat.AUTO, columns: Columns | None = None, has_cells: bool = False
) -> Layout | str:
    """The layout of a file's rows, or why there is none.

    Args:
        first: its first row: an object, or a list where columns go by their places.
        data_format: of `--format`.
        columns: of `--columns`.
        has_cells: whether the file is a table without types, whose head may be missing.
    """
    if columns and (isinstance(first, list) or columns.fields.keys() & first.keys()):
        return _asked(first, data_format, columns)
    if not isinstance(first, dict):
        return Layout(DataFormat.ALPACA)  # the row itself is the fault
    without = ""
    if columns:
        without = Message("it has none of the columns that --columns names (it has {keys})", keys=columns_of(first))
    if data_format is not DataFormat.AUTO:
        return Layout(data_format, told=without)
    found = _recognized(first, has_cells=has_cells)
    if isinstance(found, str):
        return without or found
    return found if not without else Layout(found.data_format, found.as_known, f"{without}; {found.told}".rstrip("; "))


def detect(first: dict[str, Any]) -> tuple[DataFormat | None, str]:
    """The format of a row that is of one as it stands, told by its keys; or None and, where keys fit several, why."""
    found = [name for name, keys in _TELLING.items() if keys <= first.keys()]
    if len(found) == 1:
        return found[0], ""
    return None, Message("its keys fit {found}; name one with --format", found=" and ".join(found)) if found else ""


def _asked(first: Any, data_format: DataFormat, columns: Columns) -> Layout | str:
    there = [str(place) for place in range(len(first))] if isinstance(first, list) else list(first)
    missing = [column for column in columns.fields if column not in there]
    fits = columns.data_format or (None if data_format is DataFormat.AUTO else data_format)
    if fits is None:
        renamed, _ = Renaming(columns.fields, frozenset(), may_displace=True)(first)
        found = layout_of(renamed)
        if isinstance(found, str) or found.as_known:
            return Message(
                "--columns leaves open what a row is: {found}", found=found if isinstance(found, str) else found.told
            )
        fits = found.data_format
    needed = frozenset(_TELLING[fits])
    if any(columns.fields[column] in needed for column in missing):
        unknown = Message(
            "--columns: no column {missing}; there are {has}",
            missing=", ".join(map(repr, missing)),
            has=columns_of(there),
        )
        free = [name for name in there if name and name not in columns.fields]
        hints = {column: did_you_mean(column, free, "", cutoff=_NEAR) for column in missing}
        if len(missing) == 1:
            told: list[str] = [hint for hint in hints.values() if hint]
        else:
            told = [Message("{column!r}: {hint}", column=column, hint=hint) for column, hint in hints.items() if hint]
        return Listed([unknown, *([Listed(told, " ")] if told else [])], "; ")
    if columns.by_place and names.are_names(_cells(first, columns)):
        given = ", ".join(_cells(first, columns))
        return Message(
            "--columns goes by places, and the first line has names ({told}); give these names in place of numbers",
            told=given,
        )
    renaming = Renaming(columns.fields, needed, may_displace=True)
    return Layout(fits, renaming, renaming.told(), renaming, is_asked=True)


def _cells(first: Any, columns: Columns) -> list[str]:
    row = dict(enumerate(first)) if isinstance(first, list) else first
    return [str(value) for key, value in row.items() if columns.fields.get(str(key))]


def _recognized(first: dict[str, Any], *, has_cells: bool) -> Layout | str:
    if other := _other_job(first):
        return other
    exact, why_not = detect(first)
    if why_not:
        return why_not
    own = published.layout_of(first)
    if own and (exact in (None, DataFormat.SHAREGPT) or own[0] is exact is DataFormat.ALPACA):
        return Layout(*own)
    if exact:
        return Layout(exact)
    for key in _LISTS:
        if isinstance(turns := first.get(key), list) and turns and isinstance(turns[0], dict) and _is_turn(turns[0]):
            return _renamed({key: "messages"}, DataFormat.MESSAGES)
    if pair := names.pair_of(first):
        return _renamed(pair, DataFormat.ALPACA)
    partly = [name for name, keys in _TELLING.items() if keys & first.keys()]
    if partly and not _is_open(first, partly[0]):  # a field is missing; which, is said of each row
        return Layout(partly[0])
    return _unknown(first, has_cells=has_cells)


def _renamed(fields: dict[str, str], data_format: DataFormat) -> Layout:
    renaming = Renaming(fields, frozenset(_TELLING[data_format]))
    return Layout(data_format, renaming, renaming.told(), renaming)


def _is_turn(turn: dict[str, Any]) -> bool:
    return bool(turn.keys() & {"role", "from"})


def _is_open(first: dict[str, Any], partly: DataFormat) -> bool:
    """Whether the field that is missing may be one of the row's own columns."""
    return partly in (DataFormat.ALPACA, DataFormat.PROMPT_COMPLETION) and None not in names.guess(first)


def _unknown(first: dict[str, Any], *, has_cells: bool) -> str:
    lists = [key for key, value in first.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if lists:
        return Message(
            "no row, but an object with a list of objects under {lists!r} (keys: {keys}); if these are the "
            "rows, write that list alone into the file",
            lists=lists[0],
            keys=keys_of(first),
        )
    if names.is_text_alone(first):
        return Message(
            "plain text (keys: {keys}), which is for pre-training; here answers to questions are trained: make "
            "a question and an answer of each text",
            keys=keys_of(first),
        )
    known = "; ".join(f"{', '.join(sorted(keys))} ({name})" for name, keys in _TELLING.items())
    head = (
        Message(', or, where its first line is a row, --columns \'{{"0": "instruction", "1": "output"}}\'')
        if has_cells
        else ""
    )
    return Message(
        "unknown format (keys: {keys}); expected one of: {known}; or say which column is what: {proposal}{head}",
        keys=keys_of(first),
        known=known,
        proposal=names.proposal(first),
        head=head,
    )


def _other_job(first: dict[str, Any]) -> str:
    """What is said of rows that are for another kind of training."""
    if first.get("chosen") and first.get("rejected"):
        question = names.guess(first)[0]
        way: str = Message("write them into a file of their own")
        if isinstance(first["chosen"], list):
            way = names.option({"chosen": "messages", "rejected": None})
        elif isinstance(first["chosen"], str) and question:
            way = names.option({question: "instruction", "chosen": "output", "rejected": None})
        return Message(
            "pairs of a better and a worse answer ('chosen', 'rejected'), which are for DPO; this program does "
            "not do that. To train on the better ones: {way}",
            way=way,
        )
    for key in ("kto_tag", "label"):
        if isinstance(first.get(key), bool) and (key == "kto_tag" or "completion" in first):
            return Message(
                "answers that {key!r} calls good or bad, which are for KTO; this program does not do that. Keep "
                "the rows with good ones in a file without that key",
                key=shown(key),
            )
    return ""
