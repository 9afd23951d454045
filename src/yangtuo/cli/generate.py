"""Answer the prompts of a file, many at once: a prefix tree of prompts is read in one pass, answers grow together.

A prompt a line of a .txt, or rows as for training (with or without an answer) of a .json or .jsonl. A model is named
as for `yangtuo chat`. The file that is written has a JSON object a line: prompt, answer, ended, tokens, and the row's
reference where it has one, in the order of the prompts. Killed in the middle, the same command goes on.
"""

import argparse
import json
import logging
from dataclasses import fields
from pathlib import Path
from typing import Any

from yangtuo import logs, output
from yangtuo.api.chat import ModelOptions
from yangtuo.cli.model_options import add_model_options
from yangtuo.config.choices import DataFormat
from yangtuo.config.json_values import object_of
from yangtuo.errors import DataError, UsageError
from yangtuo.i18n import Message
from yangtuo.inference.places import places_of

logger = logging.getLogger(__name__)

_MAX_NEW_TOKENS, _SEED = 512, 42


def add_options(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add = parser.add_argument
    add("target", nargs="?", metavar="FOLDER", help="An adapter, the output_dir of a run, a merged model or a base.")
    add("--file", required=True, help="The prompts: .txt, .json or .jsonl.")
    add("--out", required=True, help="File to write, .jsonl.")
    add("--max_new_tokens", type=int, default=_MAX_NEW_TOKENS, help="Longest answer. Default: %(default)s.")
    as_served = "Default: as generation_config.json of adapter or model says, else"
    add("--temperature", type=float, help=f"0: always the likeliest token. {as_served} 0.")
    add("--top_p", type=float, help=f"Share of the likeliest tokens to draw from. {as_served} 1.")
    add("--repetition_penalty", type=float, help=f"Above 1: fewer repetitions. {as_served} 1, none.")
    add("--seed", type=int, default=_SEED, help="Of the draws. Default: %(default)s.")
    add("--micro_batch_tokens", type=int, help="Distinct tokens of prompts that are read at once. Default: by memory.")
    add_model_options(parser)


def run(options: argparse.Namespace) -> None:
    """Open the model, answer, write.

    Raises:
        UserError: something that was named cannot be used.
        RunFailure: the model computes no numbers, or memory does not do.
    """
    _check(options)
    chosen = ModelOptions(**{field.name: getattr(options, field.name) for field in fields(ModelOptions)})
    model, places = chosen.model, places_of(options.target or options.model_name_or_path, chosen.model)
    from yangtuo.data import prompt_rows
    from yangtuo.data.encoding import EncodingOptions
    from yangtuo.data.readers.reader import ReadOptions
    from yangtuo.evaluation.measuring import asked_of, measure
    from yangtuo.evaluation.records import Records
    from yangtuo.evaluation.tasks import AnswerTask
    from yangtuo.inference import load
    from yangtuo.inference.generate import sampling_of
    from yangtuo.model.processor import detect_hardware

    logs.quiet_libraries()
    kwargs = object_of("chat_template_kwargs", options.chat_template_kwargs)
    tokenizer = load.find_tokenizer(places, model)
    template = load.find_template(places, tokenizer, options.template, kwargs, is_tuned=places.adapter is not None)
    encoding, read = EncodingOptions(template, max_seq_length=0), ReadOptions(DataFormat.AUTO)
    prompts = list(prompt_rows.of_file(Path(options.file).expanduser(), tokenizer, encoding, read, option="file"))
    if not prompts:
        raise DataError("--file {file}: no prompts in it", file=options.file)
    asked_for = {name: getattr(options, name) for name in ("temperature", "top_p", "repetition_penalty")}
    given = {name: value for name, value in asked_for.items() if value is not None}
    folders = [folder for folder in (places.adapter, places.base) if folder]
    sampling = sampling_of(folders, options.max_new_tokens, given, seed=options.seed)
    hardware = detect_hardware(options.use_cpu)
    opened = load.open_model(places, model, options.template, hardware, chosen.lora, kwargs)
    keys = tuple(map(str, range(len(prompts))))
    task = AnswerTask("prompts", tuple(prompts), keys, options.max_new_tokens, sampling)
    out = Path(options.out).expanduser()
    asked = asked_of("model", opened, opened.loaded, places.adapter)
    draft, lock = (out.with_name(f".{out.name}.{kind}") for kind in ("records", "lock"))
    with output.alone(
        lock, Message("--out {out}: another process is writing it; wait for it, or give another name", out=out)
    ):
        records = Records(draft, asked.identity)
        if num_found := sum(records.knows(task.identity, key) for key in keys):
            logger.info("%s: going on from %s answers", draft, f"{num_found:,}")
        work = measure(asked, [task], records, options.micro_batch_tokens)
        with output.whole_file(out) as file:
            for prompt, key in zip(prompts, keys, strict=True):
                file.write(json.dumps(_told(prompt, records.get(task.identity, key)), ensure_ascii=False) + "\n")
        draft.unlink()
    logger.info(
        "written: %s, %s answers; %s tokens of prompts by computing %s",
        *(out, f"{len(prompts):,}", f"{work.num_tokens:,}", f"{work.num_cells:,}"),
    )


def _check(options: argparse.Namespace) -> None:
    from yangtuo.api.chat import check_sampling
    from yangtuo.data import prompt_rows

    check_sampling(options)
    if options.target is None and options.model_name_or_path is None:
        raise UsageError("name the folder of an adapter, of a run or of a model")
    if options.micro_batch_tokens is not None and options.micro_batch_tokens < 1:
        raise UsageError(
            "--micro_batch_tokens {micro_batch_tokens}: expected at least 1",
            micro_batch_tokens=options.micro_batch_tokens,
        )
    if not options.out.endswith(".jsonl"):
        raise UsageError("--out {out}: give a name that ends in .jsonl", out=options.out)
    output.check_place(Path(options.out).expanduser(), "out")
    prompt_rows.check_file(Path(options.file).expanduser(), option="file")


def _told(prompt: Any, entry: Any) -> dict[str, Any]:
    reference = {"reference": prompt.reference} if prompt.reference else {}
    return {
        "prompt": prompt.text,
        "answer": entry["answer"],
        "ended": entry["ended"],
        "tokens": entry["tokens"],
        **reference,
    }
