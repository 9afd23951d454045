"""`yangtuo cache list|clear`: the encoded rows that are kept on this machine."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from yangtuo import logs
from yangtuo.data.encoding_cache import EncodingCache, Entry
from yangtuo.errors import UsageError
from yangtuo.i18n import tr
from yangtuo.training.dataset import store_folder


def add_options(parser: argparse.ArgumentParser) -> None:
    """What to do, and where."""
    parser.add_argument("action", choices=("list", "clear"), help="list: what is kept; clear: remove all of it.")
    parser.add_argument("--data_cache_dir", help="Folder, as of a training run. Default: the same as there.")


def run(options: argparse.Namespace) -> None:
    """List or clear.

    Raises:
        UsageError: there is no such folder for this user, or it cannot be read.
    """
    store = EncodingCache(store_folder(options.data_cache_dir))
    if store.folder is None:
        raise UsageError("this user has no home folder, and so no cache; --data_cache_dir names a place")
    console = logs.console()
    try:
        cleared, entries = (store.clear(), []) if options.action == "clear" else (None, store.entries())
    except OSError as error:
        raise UsageError(
            "{filename}: {strerror}", filename=error.filename or store.folder, strerror=error.strerror
        ) from error
    if cleared:
        told = tr("{num} entries removed, {size:,.1f} MB, from {folder}")
        console.print(told.format(num=cleared[0], size=cleared[1] / 1e6, folder=store.folder))
        return
    table = _table(entries)
    console.print(table if table.row_count else tr("nothing is kept"))
    console.print(tr("in {folder}").format(folder=store.folder))


def _table(entries: Sequence[Entry]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(tr("built"))
    for name in (tr("rows"), tr("tokens"), "MB", tr("length")):
        table.add_column(name, justify="right")
    for name in (tr("template"), tr("files")):
        table.add_column(name)
    for entry in entries:
        about, size = entry.about, f"{entry.num_bytes / 1e6:,.1f}"
        if "rows" not in about:
            table.add_row(str(about.get("built")), "", "", size, "", "", tr("(earlier version)"))
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
    return table
