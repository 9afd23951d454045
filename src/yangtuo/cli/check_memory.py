"""`yangtuo check`: will it fit? The memory of a run, part by part, as a table with bars."""

from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from yangtuo.i18n import Listed, gettext_noop, tr
from yangtuo.logs import sign

_BAR_CELLS = 30


def memory_parts(memory: dict[str, Any]) -> list[RenderableType]:
    """What to print of `training.forecast.Forecast.as_json`."""
    machine, there = memory["machine"], memory["there"]
    number = machine["num_devices"]
    title = tr(_TITLES[machine["kind"] == "cpu", number > 1, machine["is_here"]]).format(size=_gib(there))
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    most = max(memory["total"], there)
    for name, size in memory["parts"].items():
        table.add_row(f"  {tr(name)}", _gib(size), Text(_bar(size, most), "cyan"))
    colour = "green" if memory["fits"] else "red"
    table.add_row(
        Text(tr("  total"), "bold"), Text(_gib(memory["total"]), "bold"), Text(_bar(memory["total"], most), colour)
    )
    parts: list[RenderableType] = [Text(title, "bold"), table]
    parts.append(Text(f"  {tr(Listed(_beside(memory), '; '))}", "dim"))
    return [Group(*parts), Text()]


_TITLES = {  # on a CPU, of several devices, on this machine
    (True, False, True): gettext_noop("main memory, {size} free"),
    (True, True, True): gettext_noop("main memory, {size} free"),
    (False, False, True): gettext_noop("memory of the device, {size} free"),
    (False, True, True): gettext_noop("memory of each device, {size} free"),
    (False, False, False): gettext_noop("memory of the device, {size} usable"),
    (False, True, False): gettext_noop("memory of each device, {size} usable"),
}


def _beside(memory: dict[str, Any]) -> Iterator[str]:
    yield tr("micro-batches of at most {cells:,} tokens").format(cells=memory["micro_batch_tokens"])
    loading, disk = _gib(memory["main_memory_while_loading"]), _gib(memory["disk"])
    yield tr("main memory while loading {size}").format(size=loading)
    if memory["disk_there"] is None:
        yield tr("checkpoints and adapters {size} of disk").format(size=disk)
    else:
        told = tr("checkpoints and adapters {size} of disk, where {there} are free")
        yield told.format(size=disk, there=_gib(memory["disk_there"]))


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:,.2f} GiB"


def _bar(size: int, most: int) -> str:
    return sign("█", "#") * round(_BAR_CELLS * size / most) or (sign("▏", "|") if size else "")
