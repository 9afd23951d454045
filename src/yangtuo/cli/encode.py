"""`yangtuo encode`: every kept row with its ids and labels, as JSON lines, for other programs."""

import argparse
import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from yangtuo import logs, output
from yangtuo.config.settings import Settings
from yangtuo.data.audit import audit, summary
from yangtuo.data.examples import Examples
from yangtuo.errors import UsageError
from yangtuo.training.dataset import check_columns, encode_files, folders, open_data, tell_without_effect

logger = logging.getLogger(__name__)


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
    unused = ("mix", "deduplicate", "validation_split_percentage")
    tell_without_effect(settings, unused, "every kept row is written, once")
    opened = open_data(settings, *folders(settings))
    stored = encode_files(settings, opened.train_files, opened.tokenizer, opened.template)
    check_columns(settings, stored.sources)
    examples = stored.examples
    for line in summary("data", audit(examples, stored, opened.end_id)):
        logger.info(line)
    # Standard output may lack what a file's name has; then its escape is written.
    escapes = out == "-" and not logs.can_print("".join(examples.paths))
    with contextlib.nullcontext(sys.stdout) if out == "-" else output.whole_file(Path(out)) as file:
        for row in _rows(examples):
            file.write(json.dumps(row, ensure_ascii=escapes) + "\n")


def _rows(examples: Examples) -> Iterator[dict[str, Any]]:
    for first, behind in pairwise([*examples.firsts().tolist(), len(examples)]):
        own = range(first, behind)
        row: dict[str, Any] = {"file": examples.source(first), "row": int(examples.rows[first])}
        row["input_ids"] = [token for i in own for token in examples.row(i)[0].tolist()]
        row["labels"] = [label for i in own for label in examples.labels(i).tolist()]
        if len(own) > 1:
            row["position_ids"] = [place for i in own for place in range(int(examples.lengths()[i]))]
        if examples.weights is not None:
            row["weights"] = [weight for i in own for weight in examples.row_weights(i).tolist()]
        yield row
