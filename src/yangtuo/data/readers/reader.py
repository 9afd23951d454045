"""Files -> records, one after another; what cannot be used is collected with its place and the rule."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from yangtuo.config.choices import BadRows, DataFormat, TrainTurns
from yangtuo.data.readers import files, formats, recognition, search
from yangtuo.data.readers.columns import Columns
from yangtuo.data.readers.recognition import Layout
from yangtuo.data.readers.row_faults import is_of_empty_text
from yangtuo.data.readers.tool_use import BESIDE, beside
from yangtuo.data.records import Record, Source, Turn, Value
from yangtuo.errors import DataError
from yangtuo.i18n import Message

MOST_LISTED = 10_000  # rows spelled out in a report; more are counted
_TEXT = itemgetter(1)  # of a turn
_MOST_COLUMNS = 100  # looked for no further where rows have ever new keys, since these take memory


class Dropped(NamedTuple):
    """A row that is not trained on, and why; `line` is 1-based, None where unknown."""

    source: str
    row: int
    line: int | None
    reason: str

    @property
    def told(self) -> str:
        """All of it in a line."""
        place = self.source if self.line is None else f"{self.source}:{self.line}"
        return Message("{place} row {row}: {reason}", place=place, row=self.row, reason=self.reason)

    def __str__(self) -> str:
        return self.told


@dataclass(frozen=True)
class ReadOptions:
    """How files are read: the part of the settings that decides which records there are."""

    data_format: DataFormat = DataFormat.AUTO
    bad_rows: BadRows = BadRows.ERROR
    max_rows: int | None = None
    train_turns: TrainTurns = TrainTurns.ALL
    columns: Columns | None = None
    allow_empty_answers: bool = False


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
                problems.append(error.text)
            except OSError as error:  # the file went away while it was read
                problems.append(
                    Message("{path}: cannot be read: {strerror}", path=path, strerror=error.strerror or error)
                )
        if self.read_options.bad_rows is BadRows.ERROR:
            problems += [one.told for one in self.dropped]
            unlisted = self.num_dropped - self._num_listed
            problems += [Message("and {unlisted:,} more bad rows", unlisted=unlisted)] if unlisted else []
        if problems:
            raise DataError.of_problems(Message("data"), problems, shown=50)

    def _file(self, path: Path) -> Iterator[Record]:
        asked, source = self.read_options, str(path)
        encoding, values = files.values_of(path, self._progressed, asked.columns)
        layout: Layout | None = None
        unused: set[str] = set()
        num_rows, bad_before, is_rare = 0, self.num_dropped, True
        data_format = DataFormat.ALPACA  # until the first row that is an object
        for value in islice(values, asked.max_rows):
            num_rows += 1
            if layout is None and self._tells_layout(value):  # else the row itself is the fault
                layout = self._layout(path, value)
                is_rare = layout.as_known is not None or asked.train_turns is TrainTurns.LAST
                data_format = layout.data_format
            if is_rare or value.fault:
                turns, faults, content = self._turns(value, layout)
            else:  # the short way, since a million rows pass
                content = value.content
                turns, faults = formats.turns_of(content, data_format)
            if not all(map(str.strip, map(_TEXT, turns))) and not asked.allow_empty_answers:
                faults = _empty_answers(turns)
            tools: tuple[Any, ...] = ()
            kwargs: Mapping[str, Any] | None = None
            if not faults and (turns[0].more or not BESIDE.isdisjoint(content)):
                turns, tools, kwargs, faults = beside(content, turns)
            if faults:
                self._drop(source, value, *faults)
                continue
            if len(unused) < _MOST_COLUMNS:
                unused |= formats.unused_columns(content, data_format)
            yield Record(source, value.row, turns, tools, kwargs)
        if num_rows == 0:
            raise DataError("{path}: no rows in it", path=path)
        found = layout or Layout(asked.data_format)
        unused |= _displaced(path, found)
        num_bad, digest = self.num_dropped - bad_before, files.sha256_of(path)
        of_columns = tuple(sorted(unused)), found.told, found.is_asked
        self.sources.append(Source(source, digest, num_rows, num_bad, str(found.data_format), encoding, *of_columns))

    def _turns(self, value: Value, layout: Layout | None) -> tuple[tuple[Turn, ...], list[str], Any]:
        """The turns of a row, what is wrong with it, and the row as the format has it."""
        content, faults = value.content, [value.fault] if value.fault else []
        if not faults and layout and layout.as_known:
            content, faults = layout.as_known(content)
        if faults:
            return (), faults, content
        turns, faults = formats.turns_of(content, layout.data_format if layout else DataFormat.ALPACA)
        if faults and layout and layout.renaming:
            faults = [layout.renaming.named(fault) for fault in faults]
        elif self.read_options.train_turns is TrainTurns.LAST and turns:
            if not turns[-1].trained:
                told = Message(
                    "its last answer is not trained, and no other is with --train_turns last; remove the row"
                )
                return (), [told], content
            turns = _last_trained(turns)
        return turns, faults, content

    def _progressed(self, num_bytes: int) -> None:
        if self.on_progress:
            self.on_progress(self._bytes_before + num_bytes)

    def _tells_layout(self, value: Value) -> bool:
        columns = self.read_options.columns
        has_places = columns is not None and columns.by_place and isinstance(value.content, list)
        return not value.fault and (has_places or isinstance(value.content, dict))

    def _layout(self, path: Path, first: Value) -> Layout:
        asked, has_cells = self.read_options, search.kind_of(path) in files.WITHOUT_TYPES
        found = recognition.layout_of(
            first.content, data_format=asked.data_format, columns=asked.columns, has_cells=has_cells
        )
        if isinstance(found, str):
            line = "" if first.line is None else f":{first.line}"
            raise DataError("{path}{line}: {found}", path=path, line=line, found=found)
        return found

    def _drop(self, source: str, value: Value, *reasons: str) -> None:
        self.num_dropped += 1
        if self.read_options.bad_rows is BadRows.ERROR:
            reasons = tuple(map(_with_remedy, reasons))
        if self._num_listed < MOST_LISTED:
            self._num_listed += 1
            self.dropped += [Dropped(source, value.row, value.line, reason) for reason in reasons]


def _with_remedy(fault: str) -> str:
    if is_of_empty_text(fault):
        return Message("{fault}; write it, or leave the row out (--bad_rows drop)", fault=fault)
    return fault


def _displaced(path: Path, layout: Layout) -> set[str]:
    """Columns that another one took the name of.

    Raises:
        DataError: a column of `--columns` was in no row.
    """
    if layout.renaming is None:
        return set()
    if layout.is_asked and layout.renaming.unseen:
        unseen = ", ".join(map(repr, sorted(layout.renaming.unseen)))
        raise DataError("{path}: --columns: no row has a column {unseen}", path=path, unseen=unseen)
    return layout.renaming.displaced


def _has_calls(turn: Turn) -> bool:
    return "tool_calls" in (turn.more or ())


def _empty_answers(turns: Sequence[Turn]) -> list[str]:
    faults: list[str] = []
    for number, turn in enumerate(turns):
        if turn.trained and not turn.text.strip() and not _has_calls(turn):
            answers = sum(each.role == "assistant" for each in turns)
            before = sum(each.role == "assistant" for each in turns[:number])
            which = (
                Message("answer {before} of {answers}", before=before + 1, answers=answers)
                if answers > 1
                else Message("the answer")
            )
            faults.append(Message("{which} is empty; write it, or leave the row out (--bad_rows drop)", which=which))
    return faults


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
            yield Message(
                "{path}: read as {encoding}, since it is not UTF-8", path=source.path, encoding=source.encoding
            )
        if source.unused:
            yield Message("{path}: columns not used: {unused}", path=source.path, unused=", ".join(source.unused))


def as_json(one: Dropped) -> dict[str, Any]:
    """For the list of dropped rows."""
    return {"file": one.source, "row": one.row, "line": one.line, "reason": one.reason}
