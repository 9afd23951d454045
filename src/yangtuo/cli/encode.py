"""`yangtuo encode`: every kept row with its ids and labels, as JSON lines, for other programs."""

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from yangtuo import logs, output
from yangtuo.api.encode import EncodedRow, examples_of, rows_of
from yangtuo.config.settings import Settings
from yangtuo.errors import UsageError


def add_options(parser: argparse.ArgumentParser) -> None:
    """The verb's own option beside those of a training run."""
    parser.add_argument("--out", help="File to write; - for standard output.")


def run(settings: Settings, options: argparse.Namespace) -> None:
    """Write what training would see; loads no weights and no torch model.

    One line a row: `file`, `row` (0-based), `input_ids`, `labels` (-100 = no loss), and `weights` of the tokens where
    the data has any. The examples of a dialogue that is several stand one behind another, and `position_ids` begin anew
    with each, as in transformers' `DataCollatorWithFlattening`.

    Raises:
        UsageError: no `--out`, or one that cannot be made.
        WriteError: it cannot be written.
    """
    out = options.out
    if not out:
        raise UsageError("--out is missing: the file to write, or - for standard output")
    if out != "-":
        output.check_place(Path(out), "out")
    examples = examples_of(settings)
    # Standard output may lack what a file's name has; then its escape is written.
    escapes = out == "-" and not logs.can_print("".join(examples.paths))
    with contextlib.nullcontext(sys.stdout) if out == "-" else output.whole_file(Path(out)) as file:
        for row in rows_of(examples):
            file.write(json.dumps(_as_object(row), ensure_ascii=escapes) + "\n")


def _as_object(row: EncodedRow) -> dict[str, Any]:
    return {name: value for name, value in vars(row).items() if value is not None}
