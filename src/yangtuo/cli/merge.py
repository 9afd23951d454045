"""`yangtuo merge`: put adapters into their base, write a plain model, and prove that it is the same model."""

import argparse
from dataclasses import fields

from yangtuo.api.merge import find
from yangtuo.api.merge import run as merge
from yangtuo.config.options import OPTIONS, add
from yangtuo.logs import quiet_libraries
from yangtuo.merging.options import DTYPE_NAMES, MergeOptions


def add_options(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_merge_options(parser, "A run (its --output_dir) or an adapter: it goes into the base that it names.")


def add_merge_options(parser: argparse.ArgumentParser, target: str) -> None:
    """The options that say what is merged into what; `target` is the help of the folder."""
    parser.add_argument("target", nargs="?", metavar="FOLDER", help=target)
    parser.add_argument(
        "--model_name_or_path",
        default="",
        help="Base model: folder or hub name, not quantised. Default: the one that the adapter names.",
    )
    parser.add_argument(
        "--peft_path",
        help="In place of FOLDER: folders of adapters or runs, comma-separated, in the order in which they were "
        "trained.",
    )
    parser.add_argument("--output_dir", required=True, help="Folder for the merged model; has to be empty or absent.")
    parser.add_argument(
        "--dtype", choices=DTYPE_NAMES, default="auto", help="Of the merged weights; auto: as the base has them."
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
    asked, folder = find(merge_options_of(options), options.target, needs_adapter=True)
    quiet_libraries()
    merge(asked, folder)
