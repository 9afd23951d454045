"""The rows of a CSV or a Parquet file."""

import contextlib
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from yangtuo.data.records import Value
from yangtuo.errors import DataError, MissingDependencyError

_LONGEST_CELL = 1 << 26  # characters
_BATCH_ROWS = 1024
_OTHER_SEPARATORS = ("\t", ";", "|")
_BROKEN_CSV = {  # Python's words -> ours
    "unexpected end of data": "a text in quotes begins in it and never ends",
    "field larger than": f"a text in it is longer than {_LONGEST_CELL:,} characters; is a closing quote missing?",
    "',' expected after": 'text behind a closing quote; inside a text in quotes, write " as ""',
}


def csv_values(text: IO[str], path: str) -> Iterator[Value]:
    """Rows with their places; cells are texts, but for those of `weight`.

    Raises:
        DataError: no line with names, or a fault that leaves open where the next row begins.
    """
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(_lines(text, path), strict=True)
    names: list[str] | None = None
    row = 0
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            reason = next((ours for theirs, ours in _BROKEN_CSV.items() if str(error).startswith(theirs)), str(error))
            raise DataError(f"{path}:{line}: broken CSV: the row that begins here: {reason}") from error
        if cells is None:
            break
        if not cells:  # an empty line
            continue
        if names is None:
            names = _checked(cells, f"{path}:{line}")
            if len(names) == 1 and (found := [mark for mark in _OTHER_SEPARATORS if mark in names[0]]):
                raise DataError(f"{path}:{line}: columns are separated by {found[0]!r}; save the table with ',' there")
            continue
        fault = "" if len(cells) == len(names) else f"{len(cells)} value(s) for the {len(names)} columns of the header"
        yield Value(row, line, _content(names, cells), fault)
        row += 1
    if names is None:
        raise DataError(f"{path}: the file is empty; expected a line with the names of the columns")


def _lines(text: IO[str], path: str) -> Iterator[str]:
    while line := text.readline(_LONGEST_CELL):
        if len(line) == _LONGEST_CELL:
            raise DataError(f"{path}: a line longer than {_LONGEST_CELL:,} characters; is it a CSV file?")
        yield line


def _checked(names: list[str], place: str) -> list[str]:
    for number, name in enumerate(names):
        if name in names[:number]:
            raise DataError(f"{place}: two columns are named {name!r}; give each column its own name")
    return names


def _content(names: list[str], cells: list[str]) -> dict[str, Any]:
    content: dict[str, Any] = dict(zip(names, cells, strict=False))
    for name in ("weight", "history", "system"):  # the first two are no texts, and an empty prompt would ask for none
        if content.get(name) == "":
            content[name] = None
    if content.get("weight"):
        with contextlib.suppress(ValueError):  # stays a text, and is refused as one
            content["weight"] = float(content["weight"])
    return content


def parquet_values(path: Path) -> Iterator[Value]:
    """Rows; they have no lines.

    Raises:
        DataError: here or while iterating: no Parquet file, or a broken one.
        MissingDependencyError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDependencyError(f"{path}: the package pyarrow is not installed; pip install pyarrow") from error
    _check_ends(path)

    def rows() -> Iterator[Value]:
        row = 0
        try:
            with path.open("rb") as source, parquet.ParquetFile(source) as file:  # pyarrow knows UTF-8 names only
                _checked(file.schema_arrow.names, str(path))
                for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                    for content in batch.to_pylist():
                        yield Value(row, None, content)
                        row += 1
        except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
            after = f" after {row} row(s)" if row else ""
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"{path}: broken Parquet{after}: {reason}") from error

    return rows()


def _check_ends(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(-min(4, len(start)), 2)
        end = file.read()
    if not start:
        raise DataError(f"{path}: the file is empty; expected Parquet")
    if start != b"PAR1":
        raise DataError(f"{path}: no Parquet file, although its name says so")
    if end != b"PAR1":
        raise DataError(f"{path}: broken Parquet: its end is missing; was it copied or downloaded whole?")
