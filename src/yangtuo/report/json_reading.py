"""Values of JSON files that may be broken, half written, or of another version: what is not as expected is left out."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any


class State(StrEnum):
    """What a file of a run's folder was found to be."""

    WHOLE = "whole"
    ABSENT = "absent"
    BROKEN = "broken"  # cannot be read, or is no JSON
    CUT = "cut"  # its last line is not whole, as of a run that was killed while it wrote


@dataclass(frozen=True)
class FileState:
    """One file of a run's folder: its name there, and what it was found to be."""

    name: str
    state: State


def read_object(path: Path) -> tuple[dict[str, Any], State]:
    """The JSON object of a file; an empty one where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, State.ABSENT
    except (OSError, ValueError, RecursionError):
        return {}, State.BROKEN
    return (value, State.WHOLE) if isinstance(value, dict) else ({}, State.BROKEN)


def read_lines(path: Path) -> tuple[list[dict[str, Any]], State]:
    """The JSON objects of a file that has one a line; lines that are none are left out.

    The state is `CUT` where only the last line is none, and `BROKEN` where others are.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return [], State.ABSENT
    except OSError:
        return [], State.BROKEN
    entries, bad = [], []
    lines = [line for line in lines if line.strip()]
    for number, line in enumerate(lines):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            entries.append(value)
        else:
            bad.append(number)
    return entries, State.WHOLE if not bad else State.CUT if bad == [len(lines) - 1] else State.BROKEN


def number(value: Any) -> float | None:
    """A finite number; None of anything else, NaN and infinity included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def count(value: Any) -> int | None:
    """A whole number."""
    found = number(value)
    return None if found is None else int(found)


def text(value: Any) -> str:
    """A text; empty of anything else."""
    return value if isinstance(value, str) else ""


def truth(value: Any) -> bool | None:
    """True or false."""
    return value if isinstance(value, bool) else None


def mapping(value: Any) -> Mapping[str, Any]:
    """An object; empty of anything else."""
    return value if isinstance(value, dict) else {}


def objects(value: Any) -> Iterator[Mapping[str, Any]]:
    """The objects of a list."""
    return (one for one in (value if isinstance(value, list) else ()) if isinstance(one, dict))


def texts(value: Any) -> tuple[str, ...]:
    """The texts of a list."""
    return tuple(one for one in (value if isinstance(value, list) else ()) if isinstance(one, str))


@dataclass(frozen=True)
class Spoken:
    """What a run has said, in English and in Chinese; "" where a file does not have its Chinese."""

    text: str
    text_zh: str = ""


def spoken(found: Mapping[str, Any], name: str) -> tuple[Spoken, ...]:
    """The texts under a name, and their Chinese under the same name with `_zh`."""
    english, chinese = texts(found.get(name)), texts(found.get(f"{name}_zh"))
    if len(chinese) != len(english):
        chinese = ("",) * len(english)
    return tuple(map(Spoken, english, chinese))


def counts(value: Any) -> dict[str, int]:
    """The whole numbers of an object, by name."""
    found = {name: count(one) for name, one in mapping(value).items()}
    return {name: one for name, one in found.items() if one is not None}


def numbers(value: Any) -> dict[str, float]:
    """The numbers of an object, by name."""
    found = {name: number(one) for name, one in mapping(value).items()}
    return {name: one for name, one in found.items() if one is not None}
