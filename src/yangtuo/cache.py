"""`yangtuo cache list|clear`: the encoded rows that are kept on this machine."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from yangtuo.corpus import store_folder
from yangtuo.data.store import Store


def add_options(parser: argparse.ArgumentParser) -> None:
    """What to do, and where."""
    parser.add_argument("action", choices=("list", "clear"), help="list: what is kept; clear: remove all of it.")
    parser.add_argument("--data_cache_dir", help="Folder, as of a training run. Default: the same as there.")


def run(options: argparse.Namespace) -> None:
    """List or clear."""
    store = Store(store_folder(options.data_cache_dir))
    console = Console(highlight=False, soft_wrap=True)
    if options.action == "clear":
        num_entries, num_bytes = store.clear()
        console.print(f"{num_entries} entries removed, {num_bytes / 1e6:,.1f} MB, from {store.folder}")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("built", "rows", "tokens", "MB", "length", "template", "files"):
        table.add_column(name, justify="right" if name in ("rows", "tokens", "MB", "length") else "left")
    for entry in store.entries():
        about, size = entry.about, f"{entry.num_bytes / 1e6:,.1f}"
        if "rows" not in about:
            table.add_row(str(about.get("built")), "", "", size, "", "", "(earlier version)")
            continue
        table.add_row(
            about["built"],
            f"{about['rows']:,}",
            f"{about['tokens']:,}",
            size,
            str(about["max_seq_length"]),
            about["template"],
            ", ".join(Path(source["path"]).name for source in about["sources"]),
        )
    console.print(table if table.row_count else "nothing is kept")
    console.print(f"in {store.folder}")
