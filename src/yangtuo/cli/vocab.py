"""Grow a vocabulary: merge sentencepiece models, grow a model's rows to fit, train one, measure how dense it is."""

import argparse
import dataclasses
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from yangtuo import logs, output
from yangtuo.data.token_stats import Density, density
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.errors import ModelError, RunFolderError, UsageError
from yangtuo.i18n import tr
from yangtuo.output import check_new, check_space, new_folder
from yangtuo.vocab import grow
from yangtuo.vocab.texts import pieces_of, texts_of

logger = logging.getLogger(__name__)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The four actions and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="merge|resize|train|stats")

    merge = actions.add_parser("merge", help="Add the pieces of other sentencepiece models to a BPE model.")
    merge.add_argument("base", metavar="BASE.model", help="LLaMA's tokenizer.model; it keeps its ids.")
    merge.add_argument("extras", metavar="EXTRA.model", nargs="+", help="Pieces that BASE has not are added, score 0.")
    merge.add_argument("--out", required=True, help="Folder for the tokenizer; has to be empty or absent.")
    merge.add_argument("--pad_token", help="Add this as the last piece, for padding: [PAD] as Chinese-Alpaca has it.")

    resize = actions.add_parser("resize", help="Grow a model's embedding and head to a tokenizer's size, exactly.")
    resize.add_argument("model", metavar="MODEL_DIR", help="Model folder: safetensors or .bin, not quantised.")
    resize.add_argument("tokenizer", metavar="TOKENIZER_DIR", help="Grown tokenizer: the model's own ids come first.")
    resize.add_argument("--out", required=True, help="Folder for the model; has to be empty or absent.")
    resize.add_argument(
        "--init",
        choices=("mean_of_pieces", "mean"),
        default="mean_of_pieces",
        help="New rows: the mean of the rows of the pieces that the model's own tokenizer splits the new piece into, "
        "or the mean of all old rows. Default: %(default)s; without a tokenizer in MODEL_DIR, mean.",
    )

    train = actions.add_parser("train", help="Train a sentencepiece BPE model to merge into LLaMA's.")
    train.add_argument("corpus", metavar="CORPUS", nargs="+", help="Text files, one text a line, or files of rows.")
    train.add_argument("--out", required=True, help="File to write, .model; has to be absent.")
    train.add_argument("--vocab_size", type=int, default=20_000, help="Pieces. Default: %(default)s.")
    train.add_argument(
        "--character_coverage",
        type=float,
        default=0.9995,
        help="Share of the text's characters that become pieces; the base's bytes spell the others. Default: "
        "%(default)s.",
    )
    train.add_argument("--num_threads", type=int, default=os.cpu_count() or 1, help="Default: all cores.")
    train.add_argument(
        "--max_sentences", type=int, default=0, help="Train on this many lines, drawn at random. Default: 0, all."
    )

    stats = actions.add_parser("stats", help="Tokens a character, for one or several tokenizers side by side.")
    stats.add_argument("texts", metavar="TEXT", nargs="+", help="Text files, one text a line, or files of rows.")
    stats.add_argument("--tokenizer", action="append", required=True, metavar="DIR", help="Folder; may be repeated.")
    stats.add_argument("--json", action="store_true", help="Print JSON.")


def run(options: argparse.Namespace) -> None:
    """Do what `options.action` says.

    Raises:
        UserError: something that was given cannot be used; nothing was written.
        RunFailure: writing failed, or what was written is not what was meant; nothing stays.
    """
    {"merge": _merge, "resize": _resize, "train": _train, "stats": _stats}[options.action](options)


def _merge(options: argparse.Namespace) -> None:
    extras = [Path(extra) for extra in options.extras]
    check_new(Path(options.out), "out")
    merged = grow.merge(Path(options.base), extras, options.pad_token)
    with new_folder(Path(options.out), "out") as draft:
        grow.write_folder(merged, draft)
        open_tokenizer(draft)  # refuses a control token that text would turn into
    for extra, num in zip(extras, merged.num_added, strict=True):
        logger.info("%s: %s new pieces", extra, f"{num:,}")
    if merged.num_left_out:
        logger.info("left out: %s control, byte, unknown or unused pieces", f"{merged.num_left_out:,}")
    if merged.num_unreachable:
        logger.warning(
            "%s of the new pieces are never made: no two pieces merge into them", f"{merged.num_unreachable:,}"
        )
    logger.info("%s: %s pieces, the first %s as before", options.out, f"{merged.num_pieces:,}", f"{merged.num_base:,}")
    logger.info(
        "other programs: sentencepiece gives the ids that training sees; transformers 5 converts the model by itself "
        "and splits many texts otherwise, so hand it ids"
    )


def _resize(options: argparse.Namespace) -> None:
    model, tokenizer, out = Path(options.model), Path(options.tokenizer), Path(options.out)
    for name, folder in (("MODEL_DIR", model), ("TOKENIZER_DIR", tokenizer)):
        if not folder.is_dir():
            raise ModelError("{name} {folder}: no such folder", name=name, folder=folder)
    check_new(out, "out")
    from yangtuo.vocab import resize

    plan = resize.plan(model, tokenizer, from_pieces=options.init == "mean_of_pieces")
    check_space(out, plan.num_bytes, "out")
    with new_folder(out, "out") as draft:
        resize.write(plan, draft)
    growth = plan.growth
    num_new = growth.num_rows - growth.num_kept
    logger.info(
        "new rows: %s, of which %s are the mean of their old pieces and %s the mean of all old rows",
        f"{num_new:,}",
        f"{len(growth.sources):,}",
        f"{num_new - len(growth.sources):,}",
    )
    logger.info("%s: %s rows in %s", out, f"{growth.num_rows:,}", ", ".join(plan.grown))


def _train(options: argparse.Namespace) -> None:
    out = Path(options.out)
    _check_training(options, out)
    training = grow.Training(options.vocab_size, options.character_coverage, options.num_threads, options.max_sentences)
    num_lines = 0

    def lines() -> Iterator[str]:
        nonlocal num_lines
        for text in texts_of([Path(name) for name in options.corpus]):
            for line in pieces_of(text):
                num_lines += 1
                yield line

    model = grow.train(lines(), training)
    with output.whole_file(out, "wb") as file:
        file.write(model)
    logger.info("%s: %s pieces from %s lines of text", out, f"{options.vocab_size:,}", f"{num_lines:,}")


def _check_training(options: argparse.Namespace, out: Path) -> None:
    if out.exists():
        raise RunFolderError("--out {out}: exists already; choose another name", out=out)
    if not out.absolute().parent.is_dir():
        raise RunFolderError("--out {out}: {parent} is no folder; make it first", out=out, parent=out.parent)
    for name, good in (("vocab_size", options.vocab_size > 3), ("num_threads", options.num_threads > 0)):
        if not good:
            raise UsageError("--{name} {value}: too small", name=name, value=getattr(options, name))
    if not 0 < options.character_coverage <= 1:
        raise UsageError(
            "--character_coverage {character_coverage}: a share above 0, at most 1",
            character_coverage=options.character_coverage,
        )
    if options.max_sentences and options.max_sentences <= 100:  # sentencepiece takes no fewer
        raise UsageError(
            "--max_sentences {max_sentences}: 0 for all, or more than 100", max_sentences=options.max_sentences
        )


def _stats(options: argparse.Namespace) -> None:
    paths = [Path(name) for name in options.texts]
    tokenizers = [open_tokenizer(Path(name)) for name in options.tokenizer]
    found = [density(tokenizer, texts_of(paths)) for tokenizer in tokenizers]
    if not found[0].num_characters:
        raise UsageError("no text in these files")
    for one, tokenizer in zip(found, tokenizers, strict=True):
        if one.num_unaligned:
            logger.warning(
                "%s: changes %s of %s texts before it splits them; those are left out of the Chinese figures",
                tokenizer.folder,
                f"{one.num_unaligned:,}",
                f"{one.num_texts:,}",
            )
    if options.json:
        rows = [_as_json(name, one) for name, one in zip(options.tokenizer, found, strict=True)]
        logs.print_json(rows)
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(tr("tokenizer"), overflow="fold")
    for name in (tr("vocabulary"), tr("tokens"), tr("a character"), tr("a Chinese one"), tr("bytes")):
        table.add_column(name, justify="right", no_wrap=True)
    for name, tokenizer, one in zip(options.tokenizer, tokenizers, found, strict=True):
        table.add_row(
            name,
            f"{tokenizer.num_tokens:,}",
            f"{one.num_tokens:,}",
            _figure(one.per_character(), ".3f"),
            _figure(one.per_chinese_character(), ".3f"),
            _figure(one.byte_share(), ".1%"),
        )
    # In a pipe a folder's name stays on one line.
    console = logs.console(width=None if sys.stdout.isatty() else 1000)
    told = tr("{texts:,} texts, {characters:,} characters")
    console.print(told.format(texts=found[0].num_texts, characters=found[0].num_characters))
    console.print(table)


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _as_json(name: str, one: Density) -> dict[str, object]:
    return {
        "tokenizer": name,
        **dataclasses.asdict(one),
        "tokens_per_character": one.per_character(),
        "tokens_per_chinese_character": one.per_chinese_character(),
        "byte_share": one.byte_share(),
    }
