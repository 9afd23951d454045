"""What a person sees: the list of parts, and the table at the end. Imports no torch."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from gpu_day_parts.day import Part, told

_COLOURS = {"done": "green", "failed": "red", "skipped": "yellow"}


def show_parts(parts: Sequence[Part], states: Mapping[str, str], console: Console) -> None:
    """Which parts there are, how long they take, and which have a result."""
    table = Table("part", "seconds", "shows", "result", box=None, pad_edge=False)
    for part in parts:
        table.add_row(part.name, f"{part.seconds}", part.shows, states.get(part.name, ""))
    console.print(table)
    left = sum(part.seconds for part in parts if part.name not in states)
    console.print(f"{sum(part.seconds for part in parts) / 60:.0f} minutes in all, {left / 60:.0f} left")


def show_results(records: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    """What became of each part."""
    table = Table("part", "", "seconds", "found", box=None, pad_edge=False)
    for name, record in records.items():
        colour = _COLOURS[record["status"]]
        table.add_row(name, f"[{colour}]{record['status']}[/]", f"{record['seconds']:.0f}", _plain(told(record)))
    console.print(table)


def _plain(text: str) -> str:
    """Brackets in a message are no markup."""
    return text.replace("[", r"\[")
