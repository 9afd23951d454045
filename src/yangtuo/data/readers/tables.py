"""The rows of a table: CSV, TSV, Parquet, Arrow or Excel."""

import contextlib
import csv
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from yangtuo.data.readers.columns import Columns
from yangtuo.data.records import Value
from yangtuo.errors import DataError, MissingDependencyError, one_line
from yangtuo.i18n import Message
from yangtuo.installing import pip_install

_LONGEST_CELL = 1 << 26  # characters
_BATCH_ROWS = 1024
_SEPARATORS = ("\t", ";", "|", ",")
_BROKEN_CSV = {  # Python's words -> ours
    "unexpected end of data": Message("a text in quotes begins in it and never ends"),
    "field larger than": Message(
        "a text in it is longer than {longest_cell:,} characters; is a closing quote missing?",
        longest_cell=_LONGEST_CELL,
    ),
    "',' expected after": Message('text behind a closing quote; inside a text in quotes, write " as ""'),
}


def tsv_values(text: IO[str], path: str, columns: Columns | None = None) -> Iterator[Value]:
    """The same with tabs between the cells."""
    return csv_values(text, path, columns, "\t")


def csv_values(text: IO[str], path: str, columns: Columns | None = None, separator: str = ",") -> Iterator[Value]:
    """Rows with their places; cells are texts, but for those of `weight`; keys are numbers where columns go by place.

    Raises:
        DataError: no line with names, or a fault that leaves open where the next row begins.
    """
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(_lines(text, path), delimiter=separator, strict=True)
    names: list[str] | None = None
    row = 0
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            reason = next((ours for theirs, ours in _BROKEN_CSV.items() if str(error).startswith(theirs)), str(error))
            raise DataError(
                "{path}:{line}: broken CSV: the row that begins here: {reason}", path=path, line=line, reason=reason
            ) from error
        if cells is None:
            break
        if not cells:  # an empty line
            continue
        if names is None:
            others = [mark for mark in _SEPARATORS if mark != separator and mark in cells[0]]
            if len(cells) == 1 and others:
                raise DataError(
                    "{path}:{line}: columns are separated by {others!r}; save the table with {separator!r} "
                    "between its columns",
                    path=path,
                    line=line,
                    others=others[0],
                    separator=separator,
                )
            names, is_head = _names(cells, f"{path}:{line}", columns)
            apart = _not_texts(names, columns)
            if is_head:
                continue
        of_head = Message("columns of the header") if is_head else Message("cells of the first line")
        fault = (
            ""
            if len(cells) == len(names)
            else Message(
                "{num_cells} value(s) for the {num_names} {of_head}",
                num_cells=len(cells),
                num_names=len(names),
                of_head=of_head,
            )
        )
        yield Value(row, line, _content(names, cells, apart), fault)
        row += 1
    if names is None:
        raise DataError("{path}: the file is empty; expected a line with the names of the columns", path=path)


def _lines(text: IO[str], path: str) -> Iterator[str]:
    while line := text.readline(_LONGEST_CELL):
        if len(line) == _LONGEST_CELL:
            raise DataError(
                "{path}: a line longer than {longest_cell:,} characters; is it a CSV file?",
                path=path,
                longest_cell=_LONGEST_CELL,
            )
        yield line


def _names(cells: list[str], place: str, columns: Columns | None) -> tuple[list[str], bool]:
    """The names of the columns, and whether the first line has them; without, they are numbers from 0."""
    places = [str(number) for number in range(len(cells))]
    if columns and columns.by_place:
        return places, cells == places  # a table without names that pandas saved has the numbers for a head
    return _checked(cells, place), True


def _not_texts(names: list[str], columns: Columns | None) -> dict[str, str]:
    """Names of those columns that are no texts, or where an empty cell says nothing, with their fields."""
    fields = {name: columns.fields.get(name, name) if columns else name for name in names}
    return {name: field for name, field in fields.items() if field in ("weight", "history", "system")}


def _checked(names: list[str], place: str) -> list[str]:
    for number, name in enumerate(names):
        if name in names[:number]:
            raise DataError(
                "{place}: two columns are named {name!r}; give each column its own name", place=place, name=name
            )
    return names


def _content(names: list[str], cells: list[str], apart: dict[str, str]) -> dict[str, Any]:
    content: dict[str, Any] = dict(zip(names, cells, strict=False))
    for name, field in apart.items():
        if content.get(name) == "":  # an empty system prompt would ask for none
            content[name] = None
        elif field == "weight" and name in content:
            with contextlib.suppress(ValueError):  # stays a text, and is refused as one
                content[name] = float(content[name])
    return content


def parquet_values(path: Path) -> Iterator[Value]:
    """Rows; they have no lines.

    Raises:
        DataError: here or while iterating: no Parquet file, or a broken one.
        MissingDependencyError: pyarrow is not installed.
    """
    _needs("pyarrow", path)
    from pyarrow import parquet

    _check_ends(path)

    def batches(source: IO[bytes]) -> Iterator[Any]:
        with parquet.ParquetFile(source) as file:
            _checked(file.schema_arrow.names, str(path))
            yield from file.iter_batches(batch_size=_BATCH_ROWS)

    return _arrow_rows(path, "Parquet", batches)


def arrow_values(path: Path) -> Iterator[Value]:
    """Rows of an Arrow file, as a stream (which `datasets` writes) or with an index; they have no lines.

    Raises:
        DataError: while iterating: no Arrow file, or a broken one.
        MissingDependencyError: pyarrow is not installed.
    """
    _needs("pyarrow", path)
    from pyarrow import ipc

    def batches(source: IO[bytes]) -> Iterator[Any]:
        is_indexed = source.read(6) == b"ARROW1"
        source.seek(0)
        with (ipc.open_file if is_indexed else ipc.open_stream)(source) as reader:
            _checked(reader.schema.names, str(path))
            if is_indexed:
                yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
            else:
                yield from reader

    return _arrow_rows(path, "Arrow", batches)


def _arrow_rows(path: Path, kind: str, batches: Callable[[IO[bytes]], Iterator[Any]]) -> Iterator[Value]:
    import pyarrow

    row = 0
    try:
        with path.open("rb") as source:  # pyarrow knows UTF-8 names only
            for batch in batches(source):
                for content in batch.to_pylist():
                    yield Value(row, None, content)
                    row += 1
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        after = Message(" after {row} row(s)", row=row) if row else ""
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            "{path}: broken {kind}{after}: {reason}", path=path, kind=kind, after=after, reason=reason
        ) from error


def xlsx_values(path: Path, columns: Columns | None = None) -> Iterator[Value]:
    """Rows of the sheet of an Excel file, as in a CSV file of the sheet.

    Raises:
        DataError: while iterating: no Excel file, no line with names, or several sheets that are not empty.
        MissingDependencyError: python-calamine is not installed.
    """
    _needs("python_calamine", path)
    import python_calamine

    try:
        with path.open("rb") as file, python_calamine.load_workbook(file) as book:
            sheets = {name: book.get_sheet_by_name(name).to_python() for name in book.sheet_names}
    except (python_calamine.CalamineError, IndexError, ValueError) as error:
        raise DataError(
            "{path}: no Excel file, or a broken one: {error}", path=path, error=one_line(error, 120)
        ) from error
    filled = {name: lines for name, lines in sheets.items() if any(map(any, lines))}
    if len(filled) > 1:
        raise DataError(
            "{path}: several sheets have rows ({filled}); save each as a file of its own",
            path=path,
            filled=", ".join(filled),
        )
    names: list[str] | None = None
    row = 0
    for line, given in enumerate(next(iter(filled.values()), []), start=1):
        cells = [_cell(value) for value in given]
        if not any(cells):  # an empty line
            continue
        if names is None:
            names, is_head = _names(cells[: len(cells) - _num_empty_at_end(cells)], f"{path}:{line}", columns)
            apart = _not_texts(names, columns)
            if is_head:
                continue
        beyond = len(cells) - _num_empty_at_end(cells) > len(names)
        fault = Message("more cells than the {num_names} columns of the header", num_names=len(names)) if beyond else ""
        yield Value(row, line, _content(names, cells, apart), fault)
        row += 1
    if names is None:
        raise DataError("{path}: no sheet has a row; expected a line with the names of the columns", path=path)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _num_empty_at_end(cells: list[str]) -> int:
    return next((number for number, cell in enumerate(reversed(cells)) if cell), len(cells))


def _needs(package: str, path: Path) -> None:
    if importlib.util.find_spec(package) is None:
        name = package.replace("_", "-")
        raise MissingDependencyError(
            "{path}: the package {name} is not installed; {pip_install}",
            path=path,
            name=name,
            pip_install=pip_install("data"),
        )


def _check_ends(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(-min(4, len(start)), 2)
        end = file.read()
    if not start:
        raise DataError("{path}: the file is empty; expected Parquet", path=path)
    if start != b"PAR1":
        raise DataError("{path}: no Parquet file, although its name says so", path=path)
    if end != b"PAR1":
        raise DataError("{path}: broken Parquet: its end is missing; was it copied or downloaded whole?", path=path)
