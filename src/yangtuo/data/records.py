"""A row as read: who says what, and which of it is trained. Values only; reading is `data.readers`."""

from dataclasses import dataclass
from typing import Any, NamedTuple


class Value(NamedTuple):
    """A row as it stands in a file, or what is wrong with it.

    Attributes:
        row: 0-based number.
        line: 1-based line where it begins; None where a file has no lines.
        content: JSON value.
        fault: why it could not be read, else "".
    """

    row: int
    line: int | None
    content: Any
    fault: str = ""


class Turn(NamedTuple):
    """One utterance. `trained` tells whether its tokens carry a loss, `weight` how much each of them counts."""

    role: str
    text: str
    trained: bool
    weight: float = 1.0


class Record(NamedTuple):
    """One row as read.

    Attributes:
        source: the file that it stands in.
        row: its 0-based number there.
        turns: an optional "system", then "user" and "assistant" in turn, "assistant" last.
    """

    source: str
    row: int
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Source:
    """A data file and what was found in it.

    Attributes:
        path: the file.
        sha256: of its bytes.
        num_rows: rows read, those that could not be used included.
        num_bad: those.
        data_format: how its rows spell a dialogue.
        encoding: of its text; None for formats that are no text.
        unused: columns that nothing was made of.
    """

    path: str
    sha256: str
    num_rows: int
    num_bad: int = 0
    data_format: str = "alpaca"
    encoding: str | None = "utf-8"
    unused: tuple[str, ...] = ()
