"""Values and keys of a row as a message shows them: one line, short, and nothing that cannot be printed."""

import json
from collections.abc import Iterable
from typing import Any

from yangtuo.i18n import Listed, Message

_MOST_KEYS = 8
_LONGEST = 60


def found(value: Any) -> str:
    """What a value is, and the value."""
    kinds = {
        list: Message("a list"),
        str: Message("a text"),
        bool: Message("a boolean"),
        int: Message("a number"),
        float: Message("a number"),
    }
    if value is None:
        return "null"
    kind = (
        Message("an object")
        if isinstance(value, dict)
        else kinds.get(type(value), Message("of type {name}", name=type(value).__name__))
    )
    return Message("{kind}, {value}", kind=kind, value=short(value))


def short(value: Any) -> str:
    """A value as JSON, cut where it is long."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (RecursionError, ValueError, TypeError):  # nested too deeply; or what only Parquet has
        text = "..."
    return shown(text)


def keys_of(content: dict[str, Any]) -> str:
    """The first keys of a row, and how many more there are."""
    first = ", ".join(shown(key) for key in list(content)[:_MOST_KEYS])
    more = len(content) - _MOST_KEYS
    return Message("{first} and {more:,} more", first=first, more=more) if more > 0 else first or "none"


def columns_of(names: Iterable[str]) -> str:
    """The first columns of a file, and how many more there are; one without a name by its number, from 1."""
    told = [name or Message("(column {number}, without a name)", number=i) for i, name in enumerate(names, start=1)]
    first = Listed((name if isinstance(name, Message) else shown(name) for name in told[:_MOST_KEYS]), ", ")
    more = len(told) - _MOST_KEYS
    return Message("{first} and {more:,} more", first=first, more=more) if more > 0 else first or "none"


def shown(text: str) -> str:
    """A text for a message: one line, short, and with what cannot be printed or saved spelled out."""
    text = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
    if text.isprintable():
        return text or '""'
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
