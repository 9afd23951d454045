"""What a check has found."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How a check went."""

    OK = "ok"
    NOTE = "note"  # training starts; something of it is slower, missing or at risk
    PROBLEM = "problem"  # training could not start


@dataclass(frozen=True)
class Finding:
    """One check.

    Attributes:
        name: what was looked at.
        state: how that went.
        found: what was found there.
        remedy: what to do about it; "" where nothing is to be done.
    """

    name: str
    state: State
    found: str
    remedy: str = ""


def ok(name: str, found: str) -> Finding:
    """Nothing to be done."""
    return Finding(name, State.OK, found)


def note(name: str, found: str, remedy: str) -> Finding:
    """Training starts all the same."""
    return Finding(name, State.NOTE, found, remedy)


def problem(name: str, found: str, remedy: str) -> Finding:
    """Training could not start."""
    return Finding(name, State.PROBLEM, found, remedy)


def size(num_bytes: float) -> str:
    """Bytes as people read them."""
    return f"{num_bytes / 2**30:,.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:,.0f} MiB"
