"""A data file's bytes, unpacked, and the encoding of its text."""

import codecs
import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from yangtuo.errors import DataError, MissingDependencyError
from yangtuo.i18n import Message
from yangtuo.installing import pip_install

PACKED = (".gz", ".zst")
_BLOCK_BYTES = 1 << 20
_ZSTD_BLOCK_BYTES = 1 << 12  # small, since a block of zeros may unpack to 30,000 times as much
_ZSTD_WINDOW_BYTES = 1 << 31  # what `zstd --long=31` needs
_ACCIDENTS = 8  # characters of GBK text that may by chance look like UTF-8 before one does not
_START_BYTES = 256
_NO_TEXT = (
    (b"PK\x03\x04", Message("a ZIP archive or an Excel file; unpack it, or save the table as .csv")),
    (b"\x1f\x8b", Message("packed with gzip; add .gz to its name")),
    (b"\x28\xb5\x2f\xfd", Message("packed with zstd; add .zst to its name")),
    (b"PAR1\x15", Message("a Parquet file; let its name end with .parquet")),
    (b"version https://git-lfs", Message("a Git LFS pointer and not the data; run `git lfs pull` to get the data")),
    (b"<!doctype html", Message("a web page and not the data; download the file itself")),
    (b"<html", Message("a web page and not the data; download the file itself")),
    (codecs.BOM_UTF32_LE, Message("UTF-32 text; save it as UTF-8")),
    (codecs.BOM_UTF32_BE, Message("UTF-32 text; save it as UTF-8")),
)


@contextmanager
def opened(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """The unpacked bytes, and the file on disk."""
    with path.open("rb") as disk:
        packing = path.suffix.lower()
        if packing == ".gz":
            with gzip.GzipFile(fileobj=disk) as file:
                yield cast(IO[bytes], file), disk
        elif packing == ".zst":
            with io.BufferedReader(_Zstd(disk, path)) as buffered:
                yield buffered, disk
        else:
            yield disk, disk


class _Zstd(io.RawIOBase):
    """The unpacked bytes of zstd frames. zstandard's own reader ends without a word where a file is cut off."""

    def __init__(self, disk: IO[bytes], path: Path):
        try:
            import zstandard
        except ImportError as error:
            raise MissingDependencyError(
                "{path}: the package zstandard is not installed; {pip_install}",
                path=path,
                pip_install=pip_install("data"),
            ) from error
        self._disk = disk
        self._unpacker = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
        self._frame: Any = None
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        place = memoryview(into)
        while not self._ready:
            behind = self._frame.unused_data if self._frame and self._frame.eof else b""
            block = behind or self._disk.read(_ZSTD_BLOCK_BYTES)
            if not block:
                if self._frame and not self._frame.eof:
                    raise EOFError
                return 0
            if not self._frame or self._frame.eof:
                self._frame = self._unpacker.decompressobj()
            self._ready = self._frame.decompress(block)
        size = min(len(place), len(self._ready))
        place[:size], self._ready = self._ready[:size], self._ready[size:]
        return size


def encoding_of(path: Path) -> str:
    """UTF-8 where all of the file is; GB18030 where it is not and the first other character already is not.

    Raises:
        DataError: the file is no text, or in none of the encodings throughout.
    """
    with opened(path) as (file, _):
        start = file.read(_START_BYTES)
    for magic, found in _NO_TEXT:
        if start.lower().startswith(magic.lower()):
            raise DataError("{path}: this is {found}", path=path, found=found)
    for mark, order in ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        if start.startswith(mark):
            if fault := _first_fault(path, order):
                raise DataError(
                    "{path}:{line}: begins as UTF-16 but is not throughout; save the file as UTF-8",
                    path=path,
                    line=fault.line,
                )
            return "utf-16"
    if b"\0" in start:
        raise DataError(
            "{path}: no text, or UTF-16 without a mark (zero bytes at its start); save it as UTF-8", path=path
        )
    fault = _first_fault(path, "utf-8")
    if fault is None:
        return "utf-8-sig" if start.startswith(codecs.BOM_UTF8) else "utf-8"
    if fault.others_before <= _ACCIDENTS and not fault.is_mostly_utf8 and _first_fault(path, "gb18030") is None:
        return "gb18030"
    raise DataError(
        "{path}:{line}: byte {byte:#04x} is not UTF-8, and the file is not GB18030 (GBK) throughout; correct that "
        "line, or save the file as UTF-8",
        path=path,
        line=fault.line,
        byte=fault.byte,
    )


class _Fault(NamedTuple):
    """The first byte that is no text; `others_before` counts the characters beyond ASCII before it."""

    line: int
    byte: int
    others_before: int
    is_mostly_utf8: bool


def _first_fault(path: Path, encoding: str) -> _Fault | None:
    decoder = codecs.getincrementaldecoder(encoding)()
    line, others = 1, 0
    with opened(path) as (file, _):
        while True:
            block = file.read(_BLOCK_BYTES)
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                before = error.object[: error.start].decode(encoding)
                others += _num_beyond_ascii(before)
                place = line + before.count("\n")
                return _Fault(place, error.object[error.start], others, _is_mostly_utf8(error.object))
            if not block:
                return None
            line += text.count("\n")
            others += _num_beyond_ascii(text)


def _is_mostly_utf8(block: bytes) -> bool:
    # A broken UTF-8 text may be GB18030 by chance, where its characters come in pairs; of real GBK text, a fifth of
    # the characters look like UTF-8.
    text = block.decode("utf-8", "replace")
    faulty = text.count("\N{REPLACEMENT CHARACTER}")
    return _num_beyond_ascii(text) - faulty > faulty


def _num_beyond_ascii(text: str) -> int:
    return 0 if text.isascii() else len(text) - len(text.encode("ascii", "ignore"))
