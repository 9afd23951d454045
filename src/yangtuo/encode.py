"""`yangtuo encode`: every kept row with its ids and labels, as JSON lines, for other programs."""

import argparse
import json
import logging
import sys
from pathlib import Path

from yangtuo.errors import UsageError
from yangtuo.parsing import Settings

logger = logging.getLogger(__name__)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The verb's own option beside those of a training run."""
    parser.add_argument("--out", help="File to write; - for standard output.")


def write(settings: Settings, out: str | None) -> None:
    """Write what training would see; loads no weights and no torch model.

    One line a row: `file`, `row` (0-based), `input_ids`, `labels` (-100 = no loss).

    Raises:
        UsageError: no `--out`.
    """
    from yangtuo.data.audit import audit, summary
    from yangtuo.inputs import encode_files, find_data, find_tokenizer
    from yangtuo.model import adapter_files
    from yangtuo.model.folders import local_folder

    if not out:
        raise UsageError("--out is missing: the file to write, or - for standard output")
    base = settings.model.model_name_or_path
    folder = local_folder(base, option="model_name_or_path", must_hold=["config.json"], weights=False) if base else None
    saved = adapter_files.read(settings.lora.peft_path) if settings.lora.peft_path else None
    tokenizer = find_tokenizer(settings, folder, saved)
    stored = encode_files(settings, find_data(settings)[0], tokenizer)
    examples = stored.examples
    for line in summary("data", audit(examples, stored.counts, stored.sources, tokenizer.eos_id)):
        logger.info(line)
    draft = Path(out).with_name(f".{Path(out).name}") if out != "-" else None
    try:
        file = draft.open("w", encoding="utf-8") if draft else sys.stdout
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror}") from error
    for i in range(len(examples)):
        row = {
            "file": examples.sources[i],
            "row": int(examples.rows[i]),
            "input_ids": examples.row(i)[0].tolist(),
            "labels": examples.labels(i).tolist(),
        }
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
    if draft:
        file.close()
        draft.rename(out)
