"""`yangtuo check`: what a training run would train on, as tables, bars and a verdict, before any weight is loaded.

Colour at a terminal, plain text in a pipe.
"""

import argparse
import logging
import re
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from yangtuo.api.check import examine, place_of_dropped
from yangtuo.cli.check_memory import memory_parts
from yangtuo.config.settings import Settings
from yangtuo.data.audit import summary
from yangtuo.errors import DataError
from yangtuo.i18n import Listed, Message, tr
from yangtuo.logs import console, print_json, sign
from yangtuo.training.dataset import AUDIT_FILE, DROPPED_FILE

logger = logging.getLogger(__name__)

_BAR_CELLS = 40
_NO_SYSTEM = Message('\n(--system_prompt "" for none)')
_PARTS = {"train": Message("train"), "validation": Message("validation")}
_COLOURS = {"good": "green", "look": "yellow", "bad": "red"}
_WORDS = {
    "good": Message("good to train"),
    "look": Message("can be trained; look at the points above"),
    "bad": Message("do not train on this yet"),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The verb's own options beside those of a training run."""
    parser.add_argument("--json", action="store_true", help="Print the audit as JSON instead.")
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        help=f"Also write the audit there, as {AUDIT_FILE}, and the rows that are dropped with their reasons, as "
        f"{DROPPED_FILE}. Default: nothing is written.",
    )
    parser.add_argument(
        "--plan_for",
        metavar="MEMORY",
        help="Plan the memory for a card that is not here, such as 24GB, or several, such as 8x80GB. Default: for this "
        "machine.",
    )


def run(settings: Settings, options: argparse.Namespace) -> None:
    """Print what a run with these settings would train on; nothing is written but into the folder of `--out`.

    Raises:
        DataError: the data cannot be used, or should not be trained on; the report is printed before the latter.
        ModelError: the base's files are not what its config.json describes.
        RunFolderError: the folder holds a run, or is a file.
        UsageError: `--plan_for` without a base, or of no amount of memory.
        WriteError: it cannot be written.
    """
    found = examine(settings, options.out, options.plan_for)
    if options.json:
        print_json(found.report)
    else:
        _show(found.report)
    place = place_of_dropped(options.out)
    if not options.out and found.corpus.dropped and not any(place in one["text"] for one in found.report["findings"]):
        logger.info("check: rows are dropped; %s", place)
    if found.reasons_against:
        raise DataError(
            "check: not to be trained on yet: {reasons_against}", reasons_against=Listed(found.reasons_against, "; ")
        )


def _show(report: dict[str, Any]) -> None:
    out = console()
    for part in _parts(report):
        out.print(part)


def _parts(report: dict[str, Any]) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for name in ("train", "validation"):
        if name in report:
            first, *more = map(tr, summary(_PARTS[name], report[name]))
            parts += [Text(first, "bold"), *map(Text, more), Text(), _files(report[name]), Text()]
    parts += [Text(tr("tokens a row"), "bold"), _bars(report["train"]["histogram"]), Text(), _facts(report), Text()]
    if advice := report["advice"]:
        parts += [_advice(advice), *(Text(tr(note), "dim") for note in advice["notes"]), Text()]
    if memory := report["memory"]:
        parts += memory_parts(memory)
    for finding in report["findings"]:
        mark, colour = (sign("✗", "x"), "red") if finding["is_bad"] else ("!", "yellow")
        parts.append(Text.assemble((f"{mark} ", f"bold {colour}"), tr(finding["text"])))
    verdict = report["verdict"]
    parts.append(Text.assemble(tr("verdict: "), (tr(_WORDS[verdict]), f"bold {_COLOURS[verdict]}")))
    return parts


def _files(train: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(tr("file"), overflow="fold")
    table.add_column(tr("format"), no_wrap=True)
    for name in (tr("rows"), tr("kept"), tr("cut"), tr("tokens"), tr("median"), tr("loss")):
        table.add_column(name, justify="right", no_wrap=True)
    for one in train["files"]:
        loss = f"{one['supervised_tokens'] / one['tokens']:.0%}" if one["tokens"] else ""
        form = (
            one["data_format"]
            if one["encoding"] in (None, "utf-8", "utf-8-sig")
            else f"{one['data_format']}, {one['encoding']}"
        )
        counts = (one["num_rows"], one["rows_kept"], one["rows_cut"], one["tokens"], one["median_tokens"])
        table.add_row(Path(one["path"]).name, form, *(f"{count:,}" for count in counts), loss)
    return table


def _bars(histogram: list[dict[str, int]]) -> Group:
    most = max(one["rows"] for one in histogram)
    ranges = [f"{one['from']:,}-{one['to']:,}" for one in histogram]
    width = max(map(len, ranges))
    lines, cell, least = [], sign("█", "#"), sign("▏", "|")
    for text, one in zip(ranges, histogram, strict=True):
        bar = cell * round(_BAR_CELLS * one["rows"] / most) or (least if one["rows"] else "")
        lines.append(Text.assemble(f"  {text:>{width}} ", (bar, "cyan"), f" {one['rows']:,}"))
    return Group(*lines)


def _advice(advice: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("")
    table.add_column(tr("will it learn?"), no_wrap=True)
    table.add_column(tr("published"))
    table.add_column(tr("yours"))
    table.add_column(tr("source"), style="dim")
    for row in advice["rows"]:
        mark = (sign("✓", "+"), "green") if row["fits"] else ("!", "bold yellow")
        table.add_row(Text(*mark), *(tr(row[name]) for name in ("name", "published", "yours", "source")))
    return table


def _facts(report: dict[str, Any]) -> Table:
    train, fit, steps, saved = (report[name] for name in ("train", "fit", "steps", "savings"))
    near, kept, ends = report["near_repeated_rows"], train["examples"], train["rows_with_trained_end_token"]
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    tokenizer, per_character = report["tokenizer"], fit["tokens_per_chinese"]
    told = tr("{folder}, {num_tokens:,} tokens")
    table.add_row(tr("tokenizer"), told.format(**tokenizer))
    if per_character is not None:
        table.add_row(tr("Chinese"), tr("{number:.2f} tokens a character").format(number=per_character))
    table.add_row(tr("template"), report["template"])
    if own := report["system_prompt_of_rows_without_one"]:
        table.add_row("", Text.assemble(tr("rows without a system prompt get: "), (own, "cyan"), tr(_NO_SYSTEM)))
    told = tr("trained in {ends:,} of {kept:,} rows ({share:.1%})")
    table.add_row(tr("end token"), told.format(ends=ends, kept=kept, share=ends / kept))
    told = tr(
        "{num_other_at_boundary} of {num_rows} rows would have other ids with prompt and answer tokenised in one "
        "piece; training and inference both tokenise them apart"
    )
    table.add_row(tr("boundary"), told.format(**fit))
    told = tr("{exact:,} exact; {repeats:,} near, of {rows_compared:,} rows")
    table.add_row(tr("repeats"), told.format(exact=train["repeated_rows"], **near))
    told = tr(
        "{all:.0%} of the tokens of padded batches are not computed ({padding:.0%} padding, {shared_prefixes:.0%} "
        "shared prefixes), {head:.0%} of the head's"
    )
    table.add_row(tr("compute"), told.format(**saved))
    first, *more = steps["told"] or [""]
    if first:
        table.add_row(tr("steps"), re.split("[:：] ?", tr(first), maxsplit=1)[1])
    for line in more:
        table.add_row("", tr(line).strip())
    if len(steps["rows_by_file"]) > 1:
        by_file = ", ".join(f"{Path(path).name} {rows:,}" for path, rows in steps["rows_by_file"].items())
        table.add_row(tr("an epoch"), by_file)
    return table
