"""Data files -> rows as JSON values, one at a time, so that a file of any size needs little memory.

A file is told by its name: `.parquet`, `.csv`, else JSON; `.gz` and `.zst` behind it are unpacked. JSON may be an array
of rows or one row after another. Text is UTF-8, UTF-16 with a mark, or GB18030 (of which GBK and GB2312 are parts).

The reader of JSON rows is our own: ijson, which streams too and is faster, gives no line numbers, keeps the last of two
equal keys without a word, and does not go on behind a broken line; messages need all three.
"""

import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from yangtuo.config.words import separated
from yangtuo.data.readers.decode import PACKED, encoding_of, opened
from yangtuo.data.readers.json_rows import json_values
from yangtuo.data.readers.tables import csv_values, parquet_values
from yangtuo.data.records import Value
from yangtuo.errors import DataError

SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet", ".csv")
_PROGRESS_ROWS = 256
_SPREAD_BYTES = 65536


def find_files(
    places: str, *, exclude: Sequence[Path] = (), option: str = "dataset_dir", recursive: bool = False
) -> list[Path]:
    """The data files of a folder in sorted order, or the files given (separated by commas), without `exclude`.

    `option` is the option that the places came from, for messages. Names that begin with a dot are left out of folders.

    Raises:
        DataError: nothing there, or no data file in it.
    """
    names = [Path(name.strip()) for name in places.split(",") if name.strip()]
    if os.path.exists(places):  # also where its name has a comma in it
        names = [Path(places)]
    if not names:
        raise DataError(f"--{option} {places}: names no file; give a folder with data files, or files")
    unwanted = {path.resolve() for path in exclude}
    found: list[Path] = []
    for place in names:
        if os.path.isdir(place):  # os.path: says no where Path raises, as for a name that is too long
            found += _files_in(place, unwanted, option, recursive=recursive)
        elif os.path.isfile(place):
            found.append(place)
        elif os.path.exists(place):
            raise DataError(f"--{option} {place}: neither a folder nor a plain file; write the data into a file")
        else:
            told = "no such folder or file; give a folder with data files, or files"
            raise DataError(f"--{option} {place}: {told}{separated(str(place))}")
    return list(dict.fromkeys(path for path in found if path.resolve() not in unwanted))


def _files_in(folder: Path, unwanted: set[Path], option: str, *, recursive: bool) -> list[Path]:
    inside: list[Path] = []
    seen: set[str] = set()  # folders, since a link may lead back

    def look_into(place: Path) -> None:
        try:
            there = sorted(place.iterdir())
        except OSError as error:
            raise DataError(f"--{option} {place}: the folder cannot be read: {error.strerror}") from error
        seen.add(os.path.realpath(place))
        for path in there:
            is_folder = os.path.isdir(path)
            inside.append(path)
            if recursive and is_folder and path.name[0] != "." and os.path.realpath(path) not in seen:
                look_into(path)

    look_into(folder)
    files = [path for path in inside if path.name[0] != "." and kind_of(path) in SUFFIXES and os.path.isfile(path)]
    if not any(path.resolve() not in unwanted for path in files):
        others = ", ".join(path.name for path in inside[:5]) or "nothing"
        besides = " besides the validation file" if files else ""
        has_folders = not recursive and any(map(os.path.isdir, inside))
        below = "; files in sub-folders are read with --include_subfolders" if has_folders else ""
        raise DataError(
            f"--{option} {folder}: no data file in it{besides} (found: {others}); "
            f"expected {', '.join(SUFFIXES)}, also with {' or '.join(PACKED)}{below}"
        )
    return sorted(files)


def kind_of(path: Path) -> str:
    """The suffix that tells what is in a file, without that of its packing."""
    name = path.with_suffix("") if path.suffix.lower() in PACKED else path
    return name.suffix.lower()


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


def values_of(path: Path, on_progress: Callable[[int], None] | None = None) -> tuple[str | None, Iterator[Value]]:
    """The encoding of a file's text (None where it is no text), and its rows.

    `on_progress` is told now and then how many of the file's bytes are done.

    Raises:
        DataError: here or while iterating: the file cannot be read, or cannot be read on.
        MissingDependencyError: a package that the file's kind needs is not installed.
    """
    kind = kind_of(path)
    with _named_errors(path):
        if kind == ".parquet":
            if path.suffix.lower() in PACKED:
                raise DataError(f"{path}: a Parquet file cannot be read while packed; unpack it")
            return None, parquet_values(path)
        encoding = encoding_of(path)
        return encoding, _text(path, encoding, csv_values if kind == ".csv" else json_values, on_progress)


class _named_errors:  # reads as the statement that it is: with _named_errors(path)
    """Turns what libraries raise for a file that cannot be read into our error, with the file's name."""

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, gzip.BadGzipFile | zlib.error | EOFError) or type(error).__name__ == "ZstdError":
            reason = "its end is missing" if isinstance(error, EOFError) else str(error)
            raise DataError(
                f"{self._path}: cannot be unpacked: {reason}; was it copied or downloaded whole?"
            ) from error
        if isinstance(error, OSError):
            raise DataError(f"{self._path}: cannot be read: {error.strerror or error}") from error


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
