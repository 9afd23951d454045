"""`yangtuo encode`: every kept row with its ids and labels, as JSON lines, for other programs."""

import argparse
import json
import logging
import sys
from pathlib import Path

from yangtuo.corpus import encode_files, open_data, tell_without_effect
from yangtuo.data.audit import audit, summary
from yangtuo.data.encoding import end_id
from yangtuo.errors import UsageError
from yangtuo.parsing import Settings

logger = logging.getLogger(__name__)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The verb's own option beside those of a training run."""
    parser.add_argument("--out", help="File to write; - for standard output.")


def write(settings: Settings, out: str | None) -> None:
    """Write what training would see; loads no weights and no torch model.

    One line a row: `file`, `row` (0-based), `input_ids`, `labels` (-100 = no loss), and `weights` of the tokens where
    the data has any.

    Raises:
        UsageError: no `--out`.
    """
    if not out:
        raise UsageError("--out is missing: the file to write, or - for standard output")
    unused = ("mix", "deduplicate", "validation_split_percentage")
    tell_without_effect(settings, unused, "every kept row is written, once")
    opened = open_data(settings)
    stored = encode_files(settings, opened.train_files, opened.tokenizer, opened.template)
    examples = stored.examples
    for line in summary("data", audit(examples, stored, end_id(opened.tokenizer, opened.template))):
        logger.info(line)
    draft = Path(out).with_name(f".{Path(out).name}") if out != "-" else None
    try:
        file = draft.open("w", encoding="utf-8") if draft else sys.stdout
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror}") from error
    for i in range(len(examples)):
        row = {
            "file": examples.source(i),
            "row": int(examples.rows[i]),
            "input_ids": examples.row(i)[0].tolist(),
            "labels": examples.labels(i).tolist(),
        }
        if examples.weights is not None:
            row["weights"] = examples.row_weights(i).tolist()
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
    if draft:
        file.close()
        draft.rename(out)
