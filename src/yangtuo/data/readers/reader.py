"""Files -> records, one after another; what cannot be used is collected with its place and the rule."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from yangtuo.config.choices import BadRows, DataFormat, TrainTurns
from yangtuo.data.readers import files, formats
from yangtuo.data.records import Record, Source, Turn, Value
from yangtuo.errors import DataError

MOST_LISTED = 10_000  # rows spelled out in a report; more are counted
_MOST_COLUMNS = 100  # looked for no further where rows have ever new keys, since these take memory


class Dropped(NamedTuple):
    """A row that is not trained on, and why; `line` is 1-based, None where unknown."""

    source: str
    row: int
    line: int | None
    reason: str

    def __str__(self) -> str:
        line = "" if self.line is None else f":{self.line}"
        return f"{self.source}{line} row {self.row}: {self.reason}"


@dataclass(frozen=True)
class ReadOptions:
    """How files are read: the part of the settings that decides which records there are."""

    data_format: DataFormat = DataFormat.AUTO
    bad_rows: BadRows = BadRows.ERROR
    max_rows: int | None = None
    train_turns: TrainTurns = TrainTurns.ALL


@dataclass
class Reader:
    """One pass over files; iterate `records`, then look at the rest.

    Attributes:
        paths: the files.
        reading: how.
        on_progress: told how many bytes of all files are done.
        sources: what was found in the files read so far.
        dropped: what is wrong with the rows that cannot be used, for the first 10,000 rows.
        num_dropped: how many there are.
    """

    paths: Sequence[Path]
    read_options: ReadOptions = ReadOptions()  # immutable
    on_progress: Callable[[int], None] | None = None
    sources: list[Source] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    num_dropped: int = 0
    _num_listed: int = 0
    _bytes_before: int = 0

    def records(self) -> Iterator[Record]:
        """All records of the files, in order.

        Raises:
            DataError: at the end, for all at once: every file that cannot be read and, unless bad rows are to be
                dropped, every bad row, with file, line, row, key, value and rule.
        """
        problems: list[str] = []
        for path in self.paths:
            try:
                yield from self._file(path)
                self._bytes_before += path.stat().st_size
            except DataError as error:
                problems.append(str(error))
            except OSError as error:  # the file went away while it was read
                problems.append(f"{path}: cannot be read: {error.strerror or error}")
        if self.read_options.bad_rows is BadRows.ERROR:
            problems += [str(one) for one in self.dropped]
            unlisted = self.num_dropped - self._num_listed
            problems += [f"and {unlisted:,} more bad rows"] if unlisted else []
        if problems:
            raise DataError.of_problems("data", problems, shown=50)

    def _file(self, path: Path) -> Iterator[Record]:
        encoding, values = files.values_of(path, self._progressed)
        asked, source = self.read_options, str(path)
        most, last_only = asked.max_rows, asked.train_turns is TrainTurns.LAST
        data_format: DataFormat | None = None
        unused: set[str] = set()
        num_rows, bad_before = 0, self.num_dropped
        for value in values:
            if most is not None and num_rows >= most:
                break
            num_rows += 1
            if value.fault:
                self._drop(source, value, value.fault)
                continue
            if data_format is None and isinstance(value.content, dict):  # else the row itself is the fault
                data_format = self._format(path, value)
            turns, faults = formats.turns_of(value.content, data_format or DataFormat.ALPACA)
            if last_only and turns and not turns[-1].trained:
                faults = ["its last answer is not trained, and no other is with --train_turns last; remove the row"]
            if faults:
                self._drop(source, value, *faults)
                continue
            if len(unused) < _MOST_COLUMNS:
                unused |= formats.unused_columns(value.content, data_format or DataFormat.ALPACA)
            yield Record(source, value.row, _last_trained(turns) if last_only else turns)
        if num_rows == 0:
            raise DataError(f"{path}: no rows in it")
        named = str(data_format or asked.data_format)
        num_bad = self.num_dropped - bad_before
        self.sources.append(
            Source(source, files.sha256_of(path), num_rows, num_bad, named, encoding, tuple(sorted(unused)))
        )

    def _progressed(self, num_bytes: int) -> None:
        if self.on_progress:
            self.on_progress(self._bytes_before + num_bytes)

    def _format(self, path: Path, first: Value) -> DataFormat:
        if self.read_options.data_format is not DataFormat.AUTO:
            return self.read_options.data_format
        found, why_not = formats.detect(first.content)
        if found is None:
            line = "" if first.line is None else f":{first.line}"
            raise DataError(f"{path}{line}: {why_not}")
        return found

    def _drop(self, source: str, value: Value, *reasons: str) -> None:
        self.num_dropped += 1
        if self._num_listed < MOST_LISTED:
            self._num_listed += 1
            self.dropped += [Dropped(source, value.row, value.line, reason) for reason in reasons]


def _last_trained(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    return (*(turn._replace(trained=False) for turn in turns[:-1]), turns[-1])


def read(paths: Sequence[Path], read_options: ReadOptions = ReadOptions()) -> tuple[list[Record], list[Source]]:
    """All records of small files at once; see `Reader.records`."""
    reader = Reader(paths, read_options)
    return list(reader.records()), reader.sources


def told(sources: Sequence[Source]) -> Iterator[str]:
    """What a user should know of how files were read."""
    for source in sources:
        if source.encoding not in (None, "utf-8", "utf-8-sig"):
            yield f"{source.path}: read as {source.encoding}, since it is not UTF-8"
        if source.unused:
            yield f"{source.path}: columns not used: {', '.join(source.unused)}"


def as_json(one: Dropped) -> dict[str, Any]:
    """For the list of dropped rows."""
    return {"file": one.source, "row": one.row, "line": one.line, "reason": one.reason}
