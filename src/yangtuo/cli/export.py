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
from dataclasses import fields
from pathlib import Path

from yangtuo.api.export import ExportOptions, ExportResult, find_export
from yangtuo.api.export import run as export
from yangtuo.cli.merge import add_merge_options
from yangtuo.exporting.kinds import WRITTEN
from yangtuo.logs import quiet_libraries

logger = logging.getLogger(__name__)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The verb's options: those of merge, and what is written beside the weights."""
    add_merge_options(parser, "A run (its --output_dir), an adapter, or a model without one.")
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
    parser.add_argument(
        "--gguf", metavar="KIND", help=f"Also write one file for llama.cpp and Ollama: {', '.join(WRITTEN)}."
    )
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
    chosen = ExportOptions(**{field.name: getattr(options, field.name) for field in fields(ExportOptions)})
    asked, folder = find_export(chosen, options.target)
    quiet_libraries()
    _tell(export(asked, folder), pure_lora=asked.pure_lora)


def _tell(done: ExportResult, *, pure_lora: bool) -> None:
    if pure_lora:
        _tell_vllm(done.folder)
        return
    if done.modelfile:
        logger.info("  ollama create NAME -f %s", done.modelfile)
        logger.info("  then: %s", _check_deploy(11434, done.folder, "--model", "NAME"))
    if done.gguf:
        logger.info("  llama-server -m %s --jinja", done.gguf)
        logger.info("  then: %s", _check_deploy(8080, done.folder))
    logger.info("  vllm serve %s", done.folder)
    logger.info("  then: %s", _check_deploy(8000, done.folder))


def _check_deploy(port: int, folder: Path, *more: str) -> str:
    """The command that compares a server with training, at the port that this kind of server has by default."""
    words = ["yangtuo", "check-deploy", "--url", f"http://127.0.0.1:{port}", "--model_dir", str(folder)]
    return shlex.join([*words, *more])


def _tell_vllm(out: Path) -> None:
    """Tell the command. Without a rank, vLLM is started for 16 at most, and refuses a larger adapter."""
    from yangtuo.exporting import plain_lora
    from yangtuo.exporting.folder import ADAPTER_FOLDER, BASE_FOLDER

    rank = int(json.loads((out / ADAPTER_FOLDER / "adapter_config.json").read_text(encoding="utf-8"))["r"])
    size = plain_lora.vllm_rank(rank)
    if size is None:
        most = plain_lora.VLLM_RANKS[-1]
        logger.warning("rank %d: vLLM takes adapters up to %d only; export without --pure_lora, merged", rank, most)
        return
    words = [str(out / BASE_FOLDER), "--enable-lora", "--max-lora-rank", str(size)]
    logger.info("  vllm serve %s", shlex.join([*words, "--lora-modules", f"tuned={out / ADAPTER_FOLDER}"]))
