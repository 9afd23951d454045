"""`yangtuo export`: a folder that other programs serve as training meant it.

With adapters, they are merged into the base first, with the proofs of `yangtuo merge`. Beside the weights lie what asks
the model as training did: chat_template.jinja, generation_config.json with the end tokens, an Ollama Modelfile,
prompt.txt; with --gguf a file for llama.cpp. With --pure_lora there are two folders instead: a base that has the
adapter's modules_to_save inside, and a plain LoRA for it.
"""

import argparse
import json
import logging
import shlex
from pathlib import Path

from yangtuo.cli.merge import add_merge_options, merge_options_of
from yangtuo.config.json_values import object_of
from yangtuo.errors import UsageError
from yangtuo.exporting import plain_lora
from yangtuo.exporting.folder import ADAPTER_FOLDER, BASE_FOLDER, gguf_name, texts_of, write_split, write_whole
from yangtuo.exporting.gguf import vocabulary
from yangtuo.exporting.gguf.model import KINDS, architecture
from yangtuo.merging.job import Job, base_folder, check_room, prepare
from yangtuo.model.stored_weights import open_stored
from yangtuo.output import new_folder

logger = logging.getLogger(__name__)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The verb's options: those of merge, and what is written beside the weights."""
    add_merge_options(parser, needs_adapter=False)
    parser.add_argument(
        "--template",
        help="Of the training, as --template of train. Default: the one that travels with adapter or model, else auto.",
    )
    parser.add_argument("--system_prompt", help='Of dialogues without one; "" for none. Default: the template\'s.')
    parser.add_argument(
        "--chat_template_kwargs",
        metavar="JSON",
        help="As --chat_template_kwargs of train. Default: those of the training.",
    )
    parser.add_argument("--gguf", choices=tuple(KINDS), help="Also write one file for llama.cpp and Ollama.")
    parser.add_argument(
        "--pure_lora",
        action="store_true",
        help="Write base/ with the adapter's modules_to_save inside and adapter/ with LoRA alone, as vLLM loads them.",
    )


def run(options: argparse.Namespace) -> None:
    """Merge or copy, prove, write the texts, and give the folder its name.

    Raises:
        UserError: something that was given cannot be used; nothing was written.
        RunFailure: writing failed, and nothing stays.
        ProofError: what was written is kept as `DIR.failed-proof`.
    """
    _check_combination(options)
    out, asked = Path(options.output_dir), merge_options_of(options)
    folder = base_folder(asked)
    job = prepare(asked, folder) if asked.peft_path else None
    kwargs = object_of("chat_template_kwargs", options.chat_template_kwargs)
    texts = texts_of(job, folder, options.template, options.system_prompt, kwargs)
    source = job or open_stored(folder, trust_remote_code=asked.trust_remote_code)
    if options.gguf:  # what llama.cpp does not know is refused before hours of merging
        config = source.base.config if isinstance(source, Job) else source.config
        num_rows = job.plan.chain.num_rows if job else config.get_text_config().vocab_size
        architecture(folder, config)
        vocabulary.fields(texts.prompt_files.tokenizer, num_rows)
    if job:
        check_room(job, out)
    with new_folder(out, "output_dir") as draft:
        if job and options.pure_lora:
            write_split(job, draft, out, texts)
        else:
            write_whole(source, draft, out, texts, base_name=asked.model_name_or_path, gguf=options.gguf)
    _tell(out, options, gguf_name(options.gguf))
    texts.prompt_files.tell()


def _check_combination(options: argparse.Namespace) -> None:
    if options.pure_lora and options.gguf:
        raise UsageError("--pure_lora: a GGUF file is of a merged model; give one of them")
    if options.pure_lora and not options.peft_path:
        raise UsageError("--pure_lora: it divides the adapter of --peft_path; give both")
    if not options.peft_path and options.dtype != "auto":
        raise UsageError(f"--dtype {options.dtype}: weights are rounded when adapters are merged; none is given")


def _tell(out: Path, options: argparse.Namespace, file: str | None) -> None:
    logger.info("exported: %s", out)
    if options.pure_lora:
        _tell_vllm(out)
        return
    if (out / "Modelfile").is_file():
        logger.info("  ollama create NAME -f %s", out / "Modelfile")
    if file:
        logger.info("  llama-server -m %s --jinja", out / file)
    logger.info("  vllm serve %s", out)
    logger.info("  then: yangtuo check-deploy --url http://127.0.0.1:8000 --model_dir %s", out)


def _tell_vllm(out: Path) -> None:
    """Tell the command. Without a rank, vLLM is started for 16 at most, and refuses a larger adapter."""
    rank = int(json.loads((out / ADAPTER_FOLDER / "adapter_config.json").read_text(encoding="utf-8"))["r"])
    size = plain_lora.vllm_rank(rank)
    if size is None:
        most = plain_lora.VLLM_RANKS[-1]
        logger.warning("rank %d: vLLM takes adapters up to %d only; export without --pure_lora, merged", rank, most)
        return
    words = [str(out / BASE_FOLDER), "--enable-lora", "--max-lora-rank", str(size)]
    logger.info("  vllm serve %s", shlex.join([*words, "--lora-modules", f"tuned={out / ADAPTER_FOLDER}"]))
