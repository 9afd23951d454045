"""`yangtuo check`: will it fit? The memory of a run, part by part, as a table with bars."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from yangtuo.logs import sign

_BAR_CELLS = 30


def memory_parts(memory: dict[str, Any]) -> list[RenderableType]:
    """What to print of `training.forecast.Forecast.as_json`."""
    machine, there = memory["machine"], memory["there"]
    number = machine["num_devices"]
    place = "main memory" if machine["kind"] == "cpu" else "each device" if number > 1 else "the device"
    free = "free" if machine["is_here"] else "usable"
    title = f"memory of {place}, {_gib(there)} {free}"
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    most = max(memory["total"], there)
    for name, size in memory["parts"].items():
        table.add_row(f"  {name}", _gib(size), Text(_bar(size, most), "cyan"))
    colour = "green" if memory["fits"] else "red"
    table.add_row(
        Text("  total", "bold"), Text(_gib(memory["total"]), "bold"), Text(_bar(memory["total"], most), colour)
    )
    parts: list[RenderableType] = [Text(title, "bold"), table]
    cells = f"{memory['micro_batch_tokens']:,}"
    parts.append(Text(f"  micro-batches of at most {cells} tokens{_beside(memory)}", "dim"))
    return [Group(*parts), Text()]


def _beside(memory: dict[str, Any]) -> str:
    told = f"; main memory while loading {_gib(memory['main_memory_while_loading'])}"
    told += f"; checkpoints and adapters {_gib(memory['disk'])} of disk"
    if memory["disk_there"] is not None:
        told += f", where {_gib(memory['disk_there'])} are free"
    return told


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:,.2f} GiB"


def _bar(size: int, most: int) -> str:
    return sign("█", "#") * round(_BAR_CELLS * size / most) or (sign("▏", "|") if size else "")
