"""Data files -> rows as JSON values, one at a time, so that a file of any size needs little memory.

A file is told by its name: `.parquet`, `.arrow`, `.xlsx`, `.csv`, `.tsv`, else JSON; `.gz` and `.zst` behind a text are
unpacked. JSON may be an array of rows or one row after another. Text is UTF-8, UTF-16 with a mark, or GB18030 (of which
GBK and GB2312 are parts).

The reader of JSON rows is our own: ijson, which streams too and is faster, gives no line numbers, keeps the last of two
equal keys without a word, and does not go on behind a broken line; messages need all three.
"""

import gzip
import hashlib
import io
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from yangtuo.data.readers.columns import Columns
from yangtuo.data.readers.decode import PACKED, encoding_of, opened
from yangtuo.data.readers.json_rows import json_values
from yangtuo.data.readers.search import kind_of
from yangtuo.data.readers.tables import arrow_values, csv_values, parquet_values, tsv_values, xlsx_values
from yangtuo.data.records import Value
from yangtuo.errors import DataError
from yangtuo.i18n import Message

_TABLES: dict[str, Callable[[Path], Iterator[Value]]] = {
    ".parquet": parquet_values,
    ".arrow": arrow_values,
    ".xlsx": xlsx_values,
}
_TEXTS = {".csv": csv_values, ".tsv": tsv_values}
WITHOUT_TYPES = (".csv", ".tsv", ".xlsx")  # all cells are texts, and a line of names may be missing
_PROGRESS_ROWS = 256
_SPREAD_BYTES = 65536


def spread_blocks(path: Path, *, whole_to: int = 64 * _SPREAD_BYTES) -> Iterator[bytes]:
    """64 blocks spread evenly over a file, first and last bytes included; all of a file of `whole_to` bytes at most."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= whole_to:
            yield file.read()
            return
        for i in range(64):
            file.seek((size - _SPREAD_BYTES) * i // 63)
            yield file.read(_SPREAD_BYTES)


def sha256_of(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def values_of(
    path: Path, on_progress: Callable[[int], None] | None = None, columns: Columns | None = None
) -> tuple[str | None, Iterator[Value]]:
    """The encoding of a file's text (None where it is no text), and its rows, with the keys that the file has.

    Args:
        path: the file.
        on_progress: told now and then how many of the file's bytes are done.
        columns: of `--columns`; they say of a table without types whether it has a line of names, and what a number is.

    Raises:
        DataError: here or while iterating: the file cannot be read, or cannot be read on.
        MissingDependencyError: a package that the file's kind needs is not installed.
    """
    kind = kind_of(path)
    with _named_errors(path):
        if kind in _TABLES:
            if path.suffix.lower() in PACKED:
                raise DataError("{path}: a {kind} file cannot be read while packed; unpack it", path=path, kind=kind)
            return None, xlsx_values(path, columns) if kind == ".xlsx" else _TABLES[kind](path)
        encoding = encoding_of(path)
        reader = partial(_TEXTS[kind], columns=columns) if kind in _TEXTS else json_values
        return encoding, _text(path, encoding, reader, on_progress)


class _named_errors:  # reads as the statement that it is: with _named_errors(path)
    """Turns what libraries raise for a file that cannot be read into our error, with the file's name."""

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, gzip.BadGzipFile | zlib.error | EOFError) or type(error).__name__ == "ZstdError":
            reason = Message("its end is missing") if isinstance(error, EOFError) else str(error)
            raise DataError(
                "{path}: cannot be unpacked: {reason}; was it copied or downloaded whole?",
                path=self._path,
                reason=reason,
            ) from error
        if isinstance(error, OSError):
            raise DataError(
                "{path}: cannot be read: {strerror}", path=self._path, strerror=error.strerror or error
            ) from error


def _text(path: Path, encoding: str, reader: Any, on_progress: Callable[[int], None] | None) -> Iterator[Value]:
    with (
        _named_errors(path),
        opened(path) as (raw, disk),
        io.TextIOWrapper(raw, encoding=encoding, newline="") as text,
    ):
        for value in reader(text, str(path)):
            if on_progress and value.row % _PROGRESS_ROWS == 0:
                on_progress(disk.tell())
            yield value
