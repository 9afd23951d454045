"""Encoded rows on disk, found again by what they were made of; encoded once a machine, for all of its processes.

An entry's name is a hash over everything that decides its content: bytes and names of the data files, the tokenizer's
files, the template, the length policy, and the version of the encoder. A change of any is another entry, so none can be
stale. Entries appear whole or not at all, and are read as memory maps.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from yangtuo.arguments import Truncation
from yangtuo.data import records
from yangtuo.data.encoding import ENCODER_VERSION, Counts, Examples, encode
from yangtuo.data.records import Source
from yangtuo.data.templates import Template
from yangtuo.data.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

_COLUMNS = ("input_ids", "supervised", "offsets", "rows", "source_numbers")


@dataclass(frozen=True)
class Policy:
    """How rows become ids: the part of the settings that decides an entry's content."""

    template: Template
    max_seq_length: int
    truncation: Truncation


@dataclass(frozen=True)
class Stored:
    """Encoded rows, what happened to the others, and the files that they come from."""

    examples: Examples
    counts: Counts
    sources: list[Source]


@dataclass(frozen=True)
class Store:
    """A folder of entries.

    Attributes:
        folder: where; need not exist.
        refresh: encode again what is there.
        num_threads: of the tokenizer library; None for all processors.
    """

    folder: Path
    refresh: bool = False
    num_threads: int | None = None

    def encoded(self, files: Sequence[Path], tokenizer: Tokenizer, policy: Policy) -> Stored:
        """The rows of the files, from the store where it has them, else encoded and stored.

        Where the folder cannot be written, rows are encoded for this process alone, and that is said.

        Raises:
            DataError: see `records.read` and `encoding.encode`.
        """

        def build() -> Stored:
            read, sources = records.read(files)
            examples, counts = encode(
                read,
                tokenizer,
                policy.template,
                max_seq_length=policy.max_seq_length,
                truncation=policy.truncation,
                num_threads=self.num_threads,
            )
            return Stored(examples, counts, sources)

        try:
            entry = self.folder / _key(files, tokenizer, policy)
        except OSError:  # a file that cannot be read: reading names all of them
            return build()
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            with _locked(entry.with_suffix(".lock")):
                return self._found_or_built(entry, build)
        except (OSError, NotImplementedError) as error:  # the latter where there are no locks
            logger.warning("data: the store %s cannot be used (%s); rows are encoded anew", self.folder, error)
            return build()

    def _found_or_built(self, entry: Path, build: Callable[[], Stored]) -> Stored:
        if entry.is_dir() and not self.refresh:
            try:
                found, built = _load(entry)
            except (OSError, ValueError, KeyError, TypeError) as error:
                logger.warning("data: the stored rows in %s are damaged (%s); encoded again", entry, error)
            else:
                logger.info("data: rows as encoded on %s, of the same files and settings (%s)", built, entry)
                return found
        made = build()
        draft = entry.with_suffix(".writing")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        _write(draft, made)
        shutil.rmtree(entry, ignore_errors=True)
        draft.rename(entry)
        return _load(entry)[0]


def _key(files: Sequence[Path], tokenizer: Tokenizer, policy: Policy) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            parts = [str(path), hashlib.file_digest(file, "sha256").hexdigest()]
        digest.update(json.dumps(parts).encode())
    template = [policy.template.before, policy.template.after]
    rest = [tokenizer.sha256(), template, policy.max_seq_length, policy.truncation, ENCODER_VERSION]
    digest.update(json.dumps(rest).encode())
    return digest.hexdigest()[:32]


def _write(folder: Path, stored: Stored) -> None:
    examples, paths = stored.examples, [source.path for source in stored.sources]
    number_of = {path: number for number, path in enumerate(paths)}
    columns = {
        "input_ids": examples.input_ids,
        "supervised": examples.supervised,
        "offsets": examples.offsets,
        "rows": examples.rows,
        "source_numbers": np.array([number_of[path] for path in examples.sources], dtype=np.int32),
    }
    for name in _COLUMNS:
        np.save(folder / f"{name}.npy", columns[name])
    about = {
        "built": time.strftime("%Y-%m-%d %H:%M:%S"),
        "sizes": {name: (folder / f"{name}.npy").stat().st_size for name in _COLUMNS},
        "counts": asdict(stored.counts),
        "sources": [asdict(source) for source in stored.sources],
    }
    (folder / "about.json").write_text(json.dumps(about, ensure_ascii=False, indent=1), encoding="utf-8")


def _load(entry: Path) -> tuple[Stored, str]:
    about = json.loads((entry / "about.json").read_text(encoding="utf-8"))
    for name, size in about["sizes"].items():
        if (entry / f"{name}.npy").stat().st_size != size:
            raise ValueError(f"{name}.npy has another size than it was written with")
    columns = {name: np.load(entry / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in _COLUMNS}
    sources = [Source(**source) for source in about["sources"]]
    paths = [source.path for source in sources]
    counts = Counts(**{**about["counts"], "dropped": [tuple(row) for row in about["counts"]["dropped"]]})
    examples = Examples(
        input_ids=columns["input_ids"],
        supervised=columns["supervised"],
        offsets=np.array(columns["offsets"]),
        sources=[paths[number] for number in columns["source_numbers"]],
        rows=np.array(columns["rows"]),
    )
    return Stored(examples, counts, sources), str(about["built"])


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
