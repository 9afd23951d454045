"""Encoded rows on disk, found again by what they were made of; encoded once a machine, for all of its processes.

An entry's name is a hash over everything that decides its content: bytes of the data files, how they are read, the
tokenizer's files, the template, the encoding options, and the version of the encoder. A change of any is another entry,
so none can be stale. Entries appear whole or not at all, are checked when they are opened, and are read as memory maps.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from yangtuo import output
from yangtuo.data.cache_build import COLUMNS, build
from yangtuo.data.encoding import ENCODER_VERSION, EncodingOptions, examples_of
from yangtuo.data.examples import Examples
from yangtuo.data.readers import files, search
from yangtuo.data.readers.reader import Dropped, ReadOptions
from yangtuo.data.records import Source
from yangtuo.data.tokenizer import Tokenizer
from yangtuo.errors import DataError, WriteError
from yangtuo.i18n import Message

logger = logging.getLogger(__name__)

_WHOLLY_CHECKED_BYTES = 1 << 26  # of a column; of larger ones blocks spread evenly


@dataclass(frozen=True)
class EncodedFiles:
    """Encoded rows, what became of the others, and the files that they come from.

    Attributes:
        examples: the rows that are trained on.
        sources: the files.
        dropped: rows that are not trained on, at most 10,000 of those that cannot be used and as many others.
        num_bad: all that cannot be used.
        reasons: how many others there are, by reason.
        special: how many rows hold a text that looks like a control token, by text.
        checks: size and hash of each column.
    """

    examples: Examples
    sources: list[Source]
    dropped: list[Dropped] = field(default_factory=list)
    num_bad: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    special: dict[str, int] = field(default_factory=dict)
    checks: dict[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """What the store holds of some files, for a list."""

    folder: Path
    about: dict[str, Any]
    num_bytes: int


@dataclass(frozen=True)
class EncodingCache:
    """A folder of entries.

    Attributes:
        folder: where; need not exist. None where there is no place to keep any.
        refresh: encode again what is there.
        num_workers: processes (for large data) or threads that encode; None for all processors.
    """

    folder: Path | None
    refresh: bool = False
    num_workers: int | None = None

    def encoded(
        self, paths: Sequence[Path], tokenizer: Tokenizer, options: EncodingOptions, read_options: ReadOptions
    ) -> EncodedFiles:
        """The rows of the files, from the store where it has them, else encoded and stored.

        Where the folder cannot be written, rows are encoded for this process alone, and that is said.

        Raises:
            DataError: see `readers.records.Reader` and `encoding.check_kept`.
            WriteError: not even a temporary folder can be written.
        """

        def make(draft: Path) -> None:
            build(draft, paths, read_options, tokenizer, options, self.num_workers)

        def make_unchanged(draft: Path) -> None:
            make(draft)
            read = json.loads((draft / "about.json").read_text(encoding="utf-8"))["sources"]
            for path, digest, source in zip(paths, digests, read, strict=True):
                if source["sha256"] != digest:
                    raise DataError("{path}: has changed while it was read; start again", path=path)

        if self.folder is None:
            logger.warning(
                "data: encoded for this process alone, since this user has no home folder (--data_cache_dir or "
                "XDG_CACHE_HOME names a place)"
            )
            return _apart(make, paths)
        try:
            digests = [files.sha256_of(path) for path in paths]
            entry = self.folder / _key(paths, digests, tokenizer, options, read_options)
        except OSError:  # a file that cannot be read: reading names all of them
            return _apart(make, paths)
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            with _locked(_lock_of(entry)):
                return self._found_or_made(entry, make_unchanged, paths)
        except (OSError, NotImplementedError) as error:  # the latter where there are no locks
            why = output.reason(error)
            logger.warning("data: encoded for this process alone, since %s cannot be written (%s)", self.folder, why)
            return _apart(make, paths)

    def _found_or_made(self, entry: Path, make: Any, paths: Sequence[Path]) -> EncodedFiles:
        if entry.is_dir() and not self.refresh:
            try:
                found, about = _load(entry, paths)
            except (OSError, ValueError, KeyError, TypeError) as error:
                logger.warning("data: the stored rows in %s are damaged (%s); encoded again", entry, error)
            else:
                names = ", ".join(path.name for path in paths[:3]) + (", ..." if len(paths) > 3 else "")
                logger.info(
                    "data: %s as encoded on %s, of the same bytes and settings (%s)", names, about["built"], entry
                )
                return found
        with output.whole_folder(entry, None) as draft:
            make(draft)
            _seal(draft)
        return _load(entry, paths)[0]

    def entries(self) -> list[Entry]:
        """All entries that are whole, the newest first."""
        found = []
        for place in self._places():
            if place.name.startswith("."):  # being built, or left over
                continue
            with contextlib.suppress(OSError, ValueError):
                about = json.loads((place / "about.json").read_text(encoding="utf-8"))
                found.append(Entry(place, about, sum(path.stat().st_size for path in place.iterdir())))
        return sorted(found, key=lambda entry: str(entry.about.get("built")), reverse=True)

    def clear(self) -> tuple[int, int]:
        """Remove all entries that no process is building or opening at the moment; their number and bytes."""
        num_entries = num_bytes = 0
        for place in self._places():
            if not place.is_dir():
                continue
            with contextlib.suppress(Timeout), FileLock(_lock_of(place), blocking=False):
                num_bytes += sum(path.stat().st_size for path in place.iterdir())
                shutil.rmtree(place)
                num_entries += 1
        return num_entries, num_bytes

    def _places(self) -> list[Path]:
        return list(self.folder.iterdir()) if self.folder and self.folder.is_dir() else []


def _lock_of(place: Path) -> Path:
    """Of an entry, or of the draft of one."""
    return place.with_name(f"{place.name.removeprefix('.').partition('.')[0]}.lock")


def key_of(paths: Sequence[Path], tokenizer: Tokenizer, options: EncodingOptions, read_options: ReadOptions) -> str:
    """The name of an entry: a hash over everything that decides it; where the files lie does not."""
    return _key(paths, [files.sha256_of(path) for path in paths], tokenizer, options, read_options)


def _key(
    paths: Sequence[Path],
    digests: Sequence[str],
    tokenizer: Tokenizer,
    options: EncodingOptions,
    read_options: ReadOptions,
) -> str:
    parts = [
        [[search.kind_of(path), digest] for path, digest in zip(paths, digests, strict=True)],
        asdict(read_options),
        tokenizer.sha256(),
        [options.template.name, options.template.identity()],
        [options.max_seq_length, options.truncation, options.parse_special_tokens, options.history],
        ENCODER_VERSION,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _apart(make: Any, paths: Sequence[Path]) -> EncodedFiles:
    # The maps stay valid when the files' names are gone.
    try:
        with tempfile.TemporaryDirectory(prefix="yangtuo-") as draft:
            make(Path(draft))
            _seal(Path(draft))
            return _load(Path(draft), paths)[0]
    except OSError as error:
        raise WriteError(
            "{tempdir}: the encoded rows cannot be written: {reason}; make room, or name another place with "
            "--data_cache_dir or TMPDIR",
            tempdir=tempfile.tempdir or Message("a temporary folder"),
            reason=output.reason(error),
        ) from error


def _seal(entry: Path) -> None:
    about = json.loads((entry / "about.json").read_text(encoding="utf-8"))
    columns = [name for name in COLUMNS if (entry / name).is_file()]
    about |= {
        "built": time.strftime("%Y-%m-%d %H:%M:%S"),
        "checks": {name: _check_of(entry / name) for name in columns},
    }
    (entry / "about.json").write_text(json.dumps(about, indent=1), encoding="utf-8")


def _check_of(path: Path) -> list[Any]:
    digest = hashlib.blake2b(digest_size=8)
    for block in files.spread_blocks(path, whole_to=_WHOLLY_CHECKED_BYTES):
        digest.update(block)
    return [path.stat().st_size, digest.hexdigest()]


def _load(entry: Path, paths: Sequence[Path]) -> tuple[EncodedFiles, Mapping[str, Any]]:
    about = json.loads((entry / "about.json").read_text(encoding="utf-8"))
    for name, check in about["checks"].items():
        if _check_of(entry / name) != check:
            raise ValueError(f"{name} is not as it was written")
    names = tuple(map(str, paths))
    columns = {name: _column(entry / name, name) for name in about["checks"]}
    sources = [replace(Source(**one), path=path) for one, path in zip(about["sources"], names, strict=True)]
    for i, source in enumerate(sources):
        sources[i] = replace(source, unused=tuple(source.unused))
    dropped = [Dropped(names[number], *rest) for number, *rest in about["dropped"]]
    kept = {name: about[name] for name in ("num_bad", "reasons", "special", "checks")}
    return EncodedFiles(examples_of(columns, names), sources, dropped, **kept), about


def _column(path: Path, name: str) -> npt.NDArray[Any]:
    dtype, width = COLUMNS[name]
    if name in ("input_ids", "supervised", "weights"):
        return np.memmap(path, dtype=dtype, mode="r")
    column = np.fromfile(path, dtype=dtype)
    return column.reshape(-1, width) if width > 1 else column


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Only one process builds an entry; the others wait here, where no process group exists yet."""
    lock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            logger.info("data: waiting for another process that encodes the same rows")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
