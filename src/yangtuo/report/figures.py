"""Numbers as a reader wants them: the same in both languages."""

import json
import math
from typing import Any

UNKNOWN = "–"


def loss(value: float | None) -> str:
    """With four digits behind the point, as the run prints it."""
    return UNKNOWN if value is None else f"{value:,.4f}"


def whole(value: float | None) -> str:
    """A count with separators."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def brief(value: float | None) -> str:
    """With four significant digits."""
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.4g}"


def signed(value: float) -> str:
    """The same with its sign."""
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{brief(abs(value))}"


def gib(num_bytes: float | None) -> str:
    """Bytes as GiB, MiB or KiB."""
    if num_bytes is None:
        return UNKNOWN
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(num_bytes) >= 0.1 * size:
            value = num_bytes / size
            return f"{value:.0f} {unit}" if abs(value) >= 100 else f"{value:.3g} {unit}"
    return f"{num_bytes:.0f} B"


def clock(seconds: float | None) -> str:
    """Seconds below a minute as they are, else as hours, minutes and seconds."""
    if seconds is None:
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def percent(part: float | None, of: float | None) -> str:
    """A part of something in percent."""
    return UNKNOWN if part is None or not of else f"{part / of:.0%}"


def off(found: float | None, planned: float | None) -> str:
    """By how much something is more or less than planned, in percent with its sign."""
    if found is None or not planned or not math.isfinite(found / planned):
        return UNKNOWN
    return f"{found / planned - 1:+.0%}".replace("-", "−")


def option(value: Any) -> str:
    """An option's value as it could be given: texts as they are, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def moment(text: str) -> str:
    """A date and time without the T and the fractions between; its zone stays."""
    return text.replace("T", " ", 1) if len(text) > 10 and text[4:5] == "-" else text
