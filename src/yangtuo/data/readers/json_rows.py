"""The rows of a JSON array, or of a file with one row after another, read a block at a time."""

import json
import re
from collections.abc import Iterator
from typing import IO, Any

from yangtuo.data.records import Value
from yangtuo.errors import DataError
from yangtuo.i18n import Message

_BLOCK = 1 << 20  # characters
_LONGEST_ROW = 1 << 26  # characters; a longer one is a fault, so that a broken file is not read to its end into memory
_BLANKS = re.compile(r"[ \t\r\n]*")
_UNSURE = 16  # characters before the end of a block in which a fault may only be the block's end


class Doubled(dict[str, Any]):
    """An object in which a key stands twice; `key` is the first such."""

    key: str


class _BrokenJson(DataError):
    """A fault of the text.

    Attributes:
        reason: the message without its place.
        line: 1-based.
        column: 1-based.
    """

    reason, line, column = "", 0, 0


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    seen: set[str] = set()
    doubled = Doubled(made)
    doubled.key = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    return doubled


def json_values(text: IO[str], path: str) -> Iterator[Value]:
    """Rows with their places.

    A fault in a file of one row a line is that row's; in an array it ends the file, since nothing says where the next
    row would begin.

    Raises:
        DataError: no rows, a fault of an array, or something that is no row behind the last.
    """
    stream = _Stream(text, path)
    first = stream.next_character()
    if not first:
        raise DataError("{path}: the file is empty; expected a JSON array of rows, or one row a line", path=path)
    if first != "[":
        yield from _one_after_another(stream)
        return
    row = 0
    stream.at += 1
    if stream.next_character() == "]":
        raise DataError("{path}: the array has no rows", path=path)
    while True:
        line = stream.line
        yield Value(row, line, stream.value(row))
        row += 1
        mark = stream.next_character()
        if mark not in (",", "]"):
            where = Message("the end of the file") if not mark else repr(mark)
            raise stream.fault(row, Message("expected ',' or ']' behind a row, found {where}", where=where))
        stream.at += 1
        following = stream.next_character()
        if mark == "]":
            if following:
                raise stream.fault(row, Message("text behind the closing ']'"))
            return
        if following == "]":
            raise stream.fault(row, Message("a ',' before the closing ']'; remove it"))


def _one_after_another(stream: "_Stream") -> Iterator[Value]:
    """JSON Lines; also objects that span lines, until the first fault."""
    row = 0
    is_lined = True  # every row so far has ended on its line
    while stream.next_character():
        line = stream.line
        following = ("{", "") if row else ("{",)
        try:
            content = stream.value(row)
        except _BrokenJson as error:
            # Where the next line begins no row, this one was spread over lines, and its rest must not be read as rows.
            if not is_lined or not stream.go_to_next_line() or stream.next_character() not in following:
                raise
            place = (
                Message("column {column}", column=error.column)
                if error.line == line
                else Message("line {line}, column {column}", line=error.line, column=error.column)
            )
            yield Value(row, line, None, Message("broken JSON at {place}: {reason}", place=place, reason=error.reason))
        else:
            is_lined = is_lined and stream.line == line
            yield Value(row, line, content)
            if stream.next_character() == ",":
                raise stream.fault(
                    row + 1, Message("a ',' between rows that stand in no array; put [ ] around all rows")
                )
        row += 1


class _Stream:
    """Text with a place in it; `line` is that of the place."""

    def __init__(self, text: IO[str], path: str):
        self._text, self._path = text, path
        self._decoder = json.JSONDecoder(object_pairs_hook=_object)
        self._buffer, self.at, self.line, self._has_ended = "", 0, 1, False
        self._gone = 0  # characters of the line at the buffer's start that the buffer no longer has
        self._row_begins = (0, 1)  # place and line

    def next_character(self) -> str:
        """The next one that is no blank, "" at the end; the place moves there."""
        while True:
            match = _BLANKS.match(self._buffer, self.at)
            end = match.end() if match else self.at
            self._move(end)
            if end < len(self._buffer):
                return self._buffer[end]
            if not self._read():
                return ""

    def value(self, row: int) -> Any:
        """The JSON value at the place, which moves behind it."""
        while True:
            try:
                content, end = self._decoder.raw_decode(self._buffer, self.at)
            except json.JSONDecodeError as error:
                is_cut = error.pos >= len(self._buffer) - _UNSURE or error.msg.startswith("Unterminated string")
                is_long = len(self._buffer) - self.at >= _LONGEST_ROW
                if is_cut and not is_long and self._read():
                    continue
                self._row_begins = (self.at, self.line)
                if is_cut and not self._has_ended:
                    raise self.fault(
                        row,
                        Message(
                            "the row that begins here is longer than {longest_row:,} characters",
                            longest_row=_LONGEST_ROW,
                        ),
                    ) from error
                place, reason = _fault_of(error)
                self._move(place)
                raise self.fault(row, reason) from error
            except (RecursionError, ValueError) as error:
                self._row_begins = (self.at, self.line)
                what = (
                    Message("is nested too deeply")
                    if isinstance(error, RecursionError)
                    else Message("has a number with too many digits")
                )
                raise self.fault(row, Message("the row that begins here {what}", what=what)) from error
            if isinstance(content, int | float) and end + _UNSURE >= len(self._buffer) and self._read():
                continue  # the number might go on
            self._move(end)
            return content

    def go_to_next_line(self) -> bool:
        """Behind the line in which the row begins that `value` could not read; False where it is too long for one."""
        self.at, self.line = self._row_begins
        num_passed = 0
        while (end := self._buffer.find("\n", self.at)) < 0:
            num_passed += len(self._buffer) - self.at
            self._move(len(self._buffer))
            if num_passed > _LONGEST_ROW:
                return False
            if not self._read():
                return True
        self._move(end + 1)
        return True

    def fault(self, row: int, reason: str) -> DataError:
        """An error at the place."""
        line_begins = self._buffer.rfind("\n", 0, self.at) + 1
        column = self.at - line_begins + 1 + (0 if line_begins else self._gone)
        read = Message(" after {row} whole row(s)", row=row) if row else ""
        error = _BrokenJson(
            Message(
                "{path}:{line}:{column}: broken JSON{read}: {reason}",
                path=self._path,
                line=self.line,
                column=column,
                read=read,
                reason=reason,
            )
        )
        error.reason, error.line, error.column = reason, self.line, column
        return error

    def _move(self, place: int) -> None:
        self.line += self._buffer.count("\n", self.at, place)
        self.at = place

    def _read(self) -> bool:
        """More text behind what is not used yet; False at the end."""
        if self._has_ended:
            return False
        # As much again as a long row already has, so that reading it costs no more than twice its length.
        block = self._text.read(max(_BLOCK, len(self._buffer) - self.at))
        if not block:
            self._has_ended = True
            return False
        line_begins = self._buffer.rfind("\n", 0, self.at) + 1
        self._gone = self.at - line_begins + (0 if line_begins else self._gone)
        self._buffer, self.at = self._buffer[self.at :] + block, 0
        return True


def _fault_of(error: json.JSONDecodeError) -> tuple[int, str]:
    """Place and reason, in words that tell what was found."""
    text, place, theirs = error.doc, error.pos, error.msg
    ahead = text[place : place + _UNSURE].split("\n")[0].rstrip()
    found = (
        repr(ahead)
        if ahead
        else Message("the end of the file")
        if not text[place:].strip()
        else Message("the end of the line")
    )
    before = text[max(0, place - 1000) : place].rstrip()
    if theirs.startswith("Illegal trailing comma") or (
        theirs.startswith(("Expecting property name", "Expecting value"))
        and ahead[:1] in ("}", "]")
        and before[-1:] == ","
    ):  # Python 3.13 names it, and the place of the comma; those before it name what follows
        comma = place if text[place] == "," else place - len(text[max(0, place - 1000) : place]) + len(before) - 1
        closing = text[comma + 1 :].lstrip()[:1]
        return comma, Message("a ',' before the closing {closing!r}; remove it", closing=closing)
    if theirs.startswith("Unterminated string"):
        return place, Message("Unterminated string: a text begins here and has no closing quote")
    if theirs.startswith("Invalid control character"):
        return place, Message("Invalid control character: inside a text write a line break as \\n and a tab as \\t")
    if theirs.startswith("Invalid \\u"):
        return place, Message("Invalid \\u in a text: four hexadecimal digits must follow")
    if theirs.startswith("Invalid \\"):
        return place, Message("Invalid \\ in a text: write one backslash as \\\\")
    return place, Message("{theirs}, found {found}", theirs=theirs, found=found)
