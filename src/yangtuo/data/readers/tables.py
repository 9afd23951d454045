"""The rows of a table: CSV, TSV, Parquet, Arrow or Excel."""

import contextlib
import csv
import importlib.util
import logging
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple

from yangtuo.data.readers.columns import Columns
from yangtuo.data.readers.shown import shown
from yangtuo.data.records import Value
from yangtuo.errors import DataError, MissingDependencyError, one_line
from yangtuo.i18n import Message
from yangtuo.installing import pip_install

logger = logging.getLogger(__name__)

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
    lines = _csv_lines(text, path, separator)
    head = _head(lines, path, columns, separator)
    if head is None:
        raise DataError("{path}: the file is empty; expected a line with the names of the columns", path=path)
    of_head = Message("columns of the header") if head.is_head else Message("cells of the first line")
    inside = Message("a tab") if separator == "\t" else Message("a comma")
    for row, (line, cells) in enumerate(_filled(head.lines, path)):
        fault = ""
        if len(cells) != len(head.names):
            fault = Message(
                "{num_cells} value(s) for the {num_names} {of_head}",
                num_cells=len(cells),
                num_names=len(head.names),
                of_head=of_head,
            )
        if len(cells) > len(head.names):
            fault = Message(
                "{fault}; probably {inside} inside a cell, which then needs quotes", fault=fault, inside=inside
            )
        yield Value(row, line, _content(head.names, cells, head.apart), fault)


_Line = tuple[int, list[str]]  # its 1-based number, and its cells


class _Head(NamedTuple):
    """The names of the columns, and what is below.

    Attributes:
        names: of the columns.
        apart: see `_not_texts`.
        is_head: whether the first line has the names.
        lines: the rows, blank ones included.
    """

    names: list[str]
    apart: dict[str, str]
    is_head: bool
    lines: Iterator[_Line]


def _csv_lines(text: IO[str], path: str, separator: str) -> Iterator[_Line]:
    """The lines with cells, so that an empty one is left out."""
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(_lines(text, path), delimiter=separator, strict=True)
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
            return
        if cells:
            yield line, cells


def _head(lines: Iterator[_Line], path: str, columns: Columns | None, separator: str = "") -> _Head | None:
    """What the first line that is not blank says; None where there is none.

    Args:
        lines: of the table.
        path: of the file, for messages.
        columns: of `--columns`.
        separator: of the cells of a text.
    """
    first = next(((line, cells) for line, cells in lines if not _is_blank(cells)), None)
    if first is None:
        return None
    line, cells = first
    others = [mark for mark in _SEPARATORS if separator and mark != separator and mark in cells[0]]
    if len(cells) == 1 and others:
        raise DataError(
            "{path}:{line}: columns are separated by {others!r}; save the table with {separator!r} between its columns",
            path=path,
            line=line,
            others=others[0],
            separator=separator,
        )
    if not (columns and columns.by_place):  # else the first line may be a row with an empty cell
        lines = _below_title(first, lines, path)
    if not separator:  # a sheet is as wide as its widest row
        cells = cells[: len(cells) - _num_empty_at_end(cells)]
    names, is_head = _names(cells, f"{path}:{line}", columns)
    return _Head(names, _not_texts(names, columns), is_head, lines if is_head else chain([first], lines))


def _below_title(first: _Line, lines: Iterator[_Line], path: str) -> Iterator[_Line]:
    """The lines below the first, which has to have names and not a title alone."""
    line, cells = first
    # A cell that a title was merged into is the leftmost; pandas writes a first column without a name.
    if not cells[0].strip() or sum(map(bool, map(str.strip, cells))) > 1:
        return lines
    passed: list[_Line] = []
    for one in lines:
        passed.append(one)
        if _is_blank(one[1]):
            continue
        if sum(map(bool, map(str.strip, one[1]))) > 1:
            raise DataError(
                "{path}: row {line} has one cell, {text!r}, apparently a title; delete it so that the names of the "
                "columns are row 1",
                path=path,
                line=line,
                text=shown(cells[0]),
            )
        break
    return chain(passed, lines)


def _filled(lines: Iterator[_Line], path: str | Path) -> Iterator[_Line]:
    """The lines that are not blank; how many others there are is said at the end."""
    num_blank = 0
    for line, cells in lines:
        if _is_blank(cells):
            num_blank += 1
        else:
            yield line, cells
    if num_blank:
        logger.info("%s: %d blank rows skipped", path, num_blank)


def _is_blank(cells: list[str]) -> bool:
    return not any(map(str.strip, cells))


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
            sheets = {name: _sheet_lines(book.get_sheet_by_name(name)) for name in book.sheet_names}
    except (python_calamine.CalamineError, IndexError, ValueError) as error:
        raise DataError(
            "{path}: no Excel file, or a broken one: {error}", path=path, error=one_line(error, 120)
        ) from error
    filled = {name: lines for name, lines in sheets.items() if not all(_is_blank(cells) for _, cells in lines)}
    if len(filled) > 1:
        raise DataError(
            "{path}: several sheets have rows ({filled}); save each as a file of its own",
            path=path,
            filled=", ".join(filled),
        )
    head = _head(iter(next(iter(filled.values()), [])), str(path), columns)
    if head is None:
        raise DataError("{path}: no sheet has a row; expected a line with the names of the columns", path=path)
    num_names = len(head.names)
    for row, (line, cells) in enumerate(_filled(head.lines, path)):
        beyond = len(cells) - _num_empty_at_end(cells) > num_names
        fault = Message("more cells than the {num_names} columns of the header", num_names=num_names) if beyond else ""
        yield Value(row, line, _content(head.names, cells, head.apart), fault)


def _sheet_lines(sheet: Any) -> list[_Line]:
    above = sheet.start[0] if sheet.start else 0  # empty rows at the top are not among those given
    return [(line, list(map(_cell, cells))) for line, cells in enumerate(sheet.to_python(), start=above + 1)]


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
