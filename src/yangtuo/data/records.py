"""A row as read: who says what, and which of it is trained. Values only; reading is `data.readers`."""

from collections.abc import Mapping
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
    """One utterance.

    Attributes:
        role: "system", "user", "assistant", or "tool" for what a tool gave back.
        text: what is said.
        trained: whether its tokens carry a loss.
        weight: how much each of them counts.
        more: what else the message has, as transformers' chat templates are given it: `reasoning_content`,
            `tool_calls`, `tool_call_id`, `name`; None for nothing.
    """

    role: str
    text: str
    trained: bool
    weight: float = 1.0
    more: Mapping[str, Any] | None = None


class Record(NamedTuple):
    """One row as read.

    Attributes:
        source: the file that it stands in.
        row: its 0-based number there.
        turns: an optional "system", then "user" and "assistant" in turn, "assistant" last; where tools are called,
            further turns of "tool" and "assistant" before the next "user".
        tools: that the model may call, as JSON schemas.
        template_kwargs: what the chat template is given beside them (`enable_thinking`, ...); None for nothing.
    """

    source: str
    row: int
    turns: tuple[Turn, ...]
    tools: tuple[Any, ...] = ()
    template_kwargs: Mapping[str, Any] | None = None


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
        layout: what is read as what, where rows are no known format as they stand.
        is_asked: whether `--columns` says so.
    """

    path: str
    sha256: str
    num_rows: int
    num_bad: int = 0
    data_format: str = "alpaca"
    encoding: str | None = "utf-8"
    unused: tuple[str, ...] = ()
    layout: str = ""
    is_asked: bool = False
