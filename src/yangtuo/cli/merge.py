"""`yangtuo merge`: put adapters into their base, write a plain model, and prove that it is the same model."""

import argparse
import logging
from dataclasses import fields
from pathlib import Path

from yangtuo.config.options import OPTIONS, add
from yangtuo.merging.job import DTYPES, MergeOptions, base_folder, check_room, prepare
from yangtuo.merging.make import prompt_files_for, write_merged
from yangtuo.output import new_folder

logger = logging.getLogger(__name__)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_merge_options(parser, needs_adapter=True)


def add_merge_options(parser: argparse.ArgumentParser, *, needs_adapter: bool) -> None:
    """The options that say what is merged into what; without `needs_adapter`, it can be nothing."""
    parser.add_argument("--model_name_or_path", required=True, help="Base model: folder or hub name, not quantised.")
    parser.add_argument(
        "--peft_path",
        required=needs_adapter,
        help="Adapter folders, comma-separated, in the order in which they were trained.",
    )
    parser.add_argument("--output_dir", required=True, help="Folder for the merged model; has to be empty or absent.")
    parser.add_argument(
        "--dtype", choices=tuple(DTYPES), default="auto", help="Of the merged weights; auto: as the base has them."
    )
    parser.add_argument(
        "--allow_new_vocabulary",
        action="store_true",
        help="Take an adapter with far more vocabulary rows than the base: it was trained on this very base, "
        "with another tokenizer.",
    )
    parser.add_argument(
        "--force_base", action="store_true", help="Merge although an adapter's fingerprint names another base."
    )
    parser.add_argument(
        "--allow_partial_adapter",
        action="store_true",
        help="Merge what fits of an adapter that lacks tensors, or has some that belong to nothing; they are listed.",
    )
    parser.add_argument("--trust_remote_code", action="store_true", help="Run Python code that comes with the base.")
    parser.add_argument("--cache_dir", help="Where hub models are kept. Default: the hub's own cache.")
    add(parser, OPTIONS["hub"])


def merge_options_of(options: argparse.Namespace) -> MergeOptions:
    """Those of a merge among a verb's options."""
    return MergeOptions(**{field.name: getattr(options, field.name) for field in fields(MergeOptions)})


def run(options: argparse.Namespace) -> None:
    """Check, write, prove twice, and give the folder its name.

    Raises:
        UserError: base, adapters or output folder cannot be used; nothing was written.
        RunFailure: writing failed, and nothing stays.
        ProofError: what was written is kept as `DIR.failed-proof`.
    """
    out, asked = Path(options.output_dir), merge_options_of(options)
    job = prepare(asked, base_folder(asked))
    check_room(job, out)
    prompt_files = prompt_files_for(job)
    with new_folder(out, "output_dir") as draft:
        write_merged(job, draft, options.model_name_or_path, prompt_files)
    logger.info("merged and proven: %s", out)
    if prompt_files:
        prompt_files.tell()
