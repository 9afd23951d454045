"""`yangtuo doctor`: can this machine train, and what stands in the way? Each point with what to do about it.

Nothing is written, and nothing is asked over the network without `--online`. Colour at a terminal; in a pipe, plain
text with a point a line.
"""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from yangtuo import __version__
from yangtuo.diagnosis.diagnose import Diagnosis, diagnose
from yangtuo.diagnosis.finding import Finding, State
from yangtuo.errors import UsageError
from yangtuo.i18n import columns_of, tr
from yangtuo.logs import console, print_json, sign

logger = logging.getLogger(__name__)

_WIDE = 1000  # columns in a pipe, where a line is for programs
_COLOURS = {State.OK: "green", State.NOTE: "yellow", State.PROBLEM: "red"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """How it is printed, and what may be asked."""
    parser.add_argument("--json", action="store_true", help="Print what was found as JSON instead.")
    parser.add_argument(
        "--online",
        action="store_true",
        help="Also send the model hub (HF_ENDPOINT) one request, to see that it is there.",
    )


def run(options: argparse.Namespace) -> None:
    """Look at this machine and print what was found.

    Raises:
        UsageError: training could not start here; all is printed before.
    """
    logger.info("doctor: imports what a run imports, and tries packages; some seconds")
    found = diagnose(online=options.online)
    if options.json:
        print_json(_as_json(found))
    else:
        _show(found)
    if found.reasons_against:
        raise UsageError(
            "doctor: training could not start: {reasons_against}", reasons_against=" | ".join(found.reasons_against)
        )


def _as_json(found: Diagnosis) -> dict[str, Any]:
    return {
        "yangtuo": __version__,
        "can_train": not found.reasons_against,
        "verdict": found.verdict,
        "findings": [{"group": group, **asdict(one)} for group, ones in found.groups.items() for one in ones],
    }


def _show(found: Diagnosis) -> None:
    out = console(None if sys.stdout.isatty() else _WIDE)
    marks = {State.OK: sign("✓", "+"), State.NOTE: "!", State.PROBLEM: sign("✗", "x")}
    width = max(columns_of(tr(one.name)) for one in found.findings)
    for name, group in found.groups.items():
        out.print(Text(tr(name), "bold"))
        out.print(_table(group, marks, width))
        out.print()
    colour = "red" if found.reasons_against else "green"
    out.print(Text.assemble(tr("verdict: "), (tr(found.verdict), f"bold {colour}")))


def _table(group: Sequence[Finding], marks: Mapping[State, str], width: int) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(width=1)
    table.add_column(style="dim", no_wrap=True, width=width)
    table.add_column(overflow="fold")
    for one in group:
        table.add_row(Text(marks[one.state], f"bold {_COLOURS[one.state]}"), tr(one.name), Text(tr(one.found)))
        if one.remedy:
            table.add_row("", "", Text.assemble((f"{sign('→', '->')} ", "dim"), (tr(one.remedy), "cyan")))
    return table
