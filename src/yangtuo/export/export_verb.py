"""`yangtuo export`: a folder that other programs serve as training meant it.

With adapters, they are merged into the base first, with the proofs of `yangtuo merge`. Beside the weights lie what asks
the model as training did: chat_template.jinja, generation_config.json with the end tokens, an Ollama Modelfile,
prompt.txt; with --gguf a file for llama.cpp. With --pure_lora there are two folders instead: a base that has the
adapter's full modules inside, and a plain LoRA for it.
"""

import argparse
import json
import logging
import os
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from yangtuo import __version__
from yangtuo.data.encoding import prompt_ids
from yangtuo.data.records import Turn
from yangtuo.data.saved_template import to_values
from yangtuo.errors import AdapterError, DataError, ModelError, ProofError, UsageError
from yangtuo.export import (
    gguf,
    gguf_model,
    gguf_vocabulary,
    merge,
    merge_fit,
    merge_job,
    merge_plan,
    merge_proof,
    merge_verb,
    split,
)
from yangtuo.export.merge_job import Job
from yangtuo.export.new_folder import check_space, new_folder
from yangtuo.model import adapter_files, fingerprint, generation_config, provenance, serving
from yangtuo.model.asking import CHAT_TEMPLATE, Asking, asking_of
from yangtuo.model.base import read_config
from yangtuo.model.weight_files import open_weights

logger = logging.getLogger(__name__)

BASE_FOLDER, ADAPTER_FOLDER = "base", "adapter"  # of --pure_lora
_PROBE = (Turn("user", "?", trained=False),)
_LINKED_BYTES = 1 << 20  # files of weights are linked, texts are written anew


@dataclass(frozen=True)
class Texts:
    """What asks the model, by file name; made before anything is written."""

    asking: Asking
    files: Mapping[str, str]  # beside those of `asking`
    choosing: Mapping[str, float]  # of the tokens of an answer


def add_options(parser: argparse.ArgumentParser) -> None:
    """The verb's options: those of merge, and what is written beside the weights."""
    merge_job.add_options(parser, needs_adapter=False)
    parser.add_argument(
        "--template",
        help="Of the training, as --template of train. Default: the one that travels with adapter or model, else auto.",
    )
    parser.add_argument("--system_prompt", help='Of dialogues without one; "" for none. Default: the template\'s.')
    parser.add_argument("--gguf", choices=tuple(gguf_model.KINDS), help="Also write one file for llama.cpp and Ollama.")
    parser.add_argument(
        "--pure_lora",
        action="store_true",
        help="Write base/ with the adapter's full modules inside and adapter/ with LoRA alone, as vLLM loads them.",
    )


def run(options: argparse.Namespace) -> None:
    """Merge or copy, prove, write the texts, and give the folder its name.

    Raises:
        UserError: something that was given cannot be used; nothing was written.
        RunFailure: writing failed, and nothing stays.
        ProofError: what was written is kept as `DIR.failed-proof`.
    """
    _check_combination(options)
    out, folder = Path(options.output_dir), merge_job.base_folder(options)
    job = merge_job.prepare(options, folder) if options.peft_path else None
    texts = _texts(options, job, folder)
    if options.gguf:  # what llama.cpp does not know is refused before hours of merging
        num_rows = job.plan.chain.num_rows if job else read_config(folder).get_text_config().vocab_size
        gguf_model.architecture(folder, read_config(folder))
        gguf_vocabulary.fields(texts.asking.tokenizer, num_rows)
    if job:
        merge_job.check_room(job, out)
    file = f"model-{options.gguf}.gguf" if options.gguf else None
    with new_folder(out, "output_dir") as draft:
        if job and options.pure_lora:
            _divide(job, draft, out, texts)
            merge_verb.save_asking(texts.asking, draft / BASE_FOLDER)
            _write_texts(texts, draft / BASE_FOLDER)
        else:
            if job:
                merge_verb.make(job, draft, options.model_name_or_path, texts.asking)
            else:
                _copy(folder, draft, out)
                merge_verb.save_asking(texts.asking, draft)
            _write_texts(texts, draft)
            if file:
                chat_template = texts.asking.files[CHAT_TEMPLATE]
                gguf.write(draft, draft / file, options.gguf, chat_template, option="output_dir")
            _write_modelfile(texts, draft, file)
    _tell(out, options, file)
    texts.asking.tell()


def _check_combination(options: argparse.Namespace) -> None:
    if options.pure_lora and options.gguf:
        raise UsageError("--pure_lora: a GGUF file is of a merged model; give one of them")
    if options.pure_lora and not options.peft_path:
        raise UsageError("--pure_lora: it divides the adapter of --peft_path; give both")
    if not options.peft_path and options.dtype != "auto":
        raise UsageError(f"--dtype {options.dtype}: weights are rounded when adapters are merged; none is given")


def _texts(options: argparse.Namespace, job: Job | None, folder: Path) -> Texts:
    folders = [*(saved.folder for saved in reversed(job.adapters if job else [])), folder]
    tokenizer = job.tokenizer if job else provenance.find_tokenizer(folders)
    if tokenizer is None:
        raise UsageError("neither adapter nor base holds a tokenizer; copy its files into the folder of one")
    template, why = provenance.find_template(folders, tokenizer, options.template, options.system_prompt)
    prompt_ids(tokenizer, template, _PROBE)  # it fits the tokenizer, or the error comes before the weights
    logger.info("template: %s (%s)", template.name, why)
    if options.template is not None or options.system_prompt is not None:
        provenance.tell_other(folders, template)
    if job and options.template is None and not any(provenance.template_of(saved.folder) for saved in job.adapters):
        logger.warning("template: none travels with the adapter; name the one of its training with --template")
    existing = generation_config.first_of(folders)
    asking = asking_of(template, tokenizer, existing[1] if existing else None, is_strict=True)
    values = json.loads(asking.files[generation_config.GENERATION_CONFIG])
    try:
        files = {"prompt.txt": serving.prompt_text_of(template, tokenizer)}
    except DataError as error:
        logger.warning("prompt.txt is not written: %s", error)
        files = {}
    return Texts(asking.tried(folder / "config.json"), files, generation_config.choosing(values, folder)[0])


def _write_texts(texts: Texts, place: Path) -> None:
    for name, text in texts.files.items():
        (place / name).write_text(text, encoding="utf-8", newline="")


def _write_modelfile(texts: Texts, place: Path, file: str | None) -> None:
    try:
        text = serving.modelfile_of(
            texts.asking.template, texts.asking.tokenizer, f"./{file}" if file else ".", texts.choosing
        )
    except DataError as error:
        logger.warning("Modelfile is not written: %s", error)
        return
    (place / "Modelfile").write_text(text, encoding="utf-8", newline="")


def _copy(folder: Path, draft: Path, out: Path) -> None:
    """A model without adapters: its files under the new name, without a second copy on disk where that can be."""
    weights = open_weights(folder)
    merge_plan.start(weights, read_config(folder))  # says whether the folder is whole
    check_space(out, sum(spec.num_bytes for spec in weights.specs.values()), "output_dir")
    for path in sorted(folder.iterdir()):
        is_ours = path.suffix in (".gguf", ".md") or path.name in ("Modelfile", "prompt.txt")  # made anew, or not true
        if not path.is_file() or path.name.startswith(".") or is_ours:
            continue
        if path.stat().st_size < _LINKED_BYTES:
            shutil.copy2(path, draft)
        else:
            _link(path, draft)


def _link(path: Path, folder: Path) -> None:
    try:
        os.link(path.resolve(), folder / path.name)
    except OSError:  # another disk, or a file system without links
        shutil.copy2(path, folder)


def _divide(job: Job, draft: Path, out: Path, texts: Texts) -> None:
    chain, lora = split.base_of(job.plan), split.lora_of(job.plan.last, str(out / BASE_FOLDER))
    base, adapter = draft / BASE_FOLDER, draft / ADAPTER_FOLDER
    base.mkdir()
    merge.write(job.base, chain, base, job.dtype)
    *below, last = (saved.sha256 for saved in job.adapters)
    merge_verb.write_small_files(job, base, chain, [*job.merged_before, *below, f"{last} (full modules)"])
    config = read_config(base)
    split.write_lora(lora, adapter, _provenance_of(job, base, out / BASE_FOLDER, config, texts.asking))
    texts.asking.save(adapter)
    _prove(job, chain, draft)


def _provenance_of(job: Job, base: Path, name: Path, config: PreTrainedConfig, asking: Asking) -> dict[str, Any]:
    """The plain LoRA's, for its new base."""
    return {
        **(job.known[-1] or {}),
        "yangtuo": __version__,
        "base": fingerprint.of_base(str(name), base, config),
        "stack": [],
        "tokenizer": {"sha256": asking.tokenizer.sha256(), "num_tokens": asking.tokenizer.num_tokens},
        "template": to_values(asking.template),
    }


def _prove(job: Job, chain: merge.Chain, draft: Path) -> None:
    try:
        new_base, config = merge_verb.reopened(draft / BASE_FOLDER)
        saved = adapter_files.read(str(draft / ADAPTER_FOLDER), is_optional=False)
        plan = merge_plan.plan(new_base, config, [saved], merge_fit.Allowed())
    except (ModelError, AdapterError) as error:
        raise ProofError(f"proof failed: {error}") from error
    tensors = merge_proof.prove_tensors(job.base, chain, new_base, job.dtype)
    probes = merge_verb.probes(job.tokenizer, chain.num_rows)
    logits = merge_proof.prove_split(job.base, job.plan, new_base, plan, probes)
    logger.info(
        "proof: %d tensors of the base, %d changed; logits of base and plain LoRA differ from those of base and "
        "adapter by %.2g at most, rounding explains %.2g",
        tensors.num_tensors,
        tensors.num_changed,
        logits.max_difference,
        logits.limit,
    )
    text = json.dumps({"tensors": asdict(tensors), "logits": asdict(logits)}, indent=2)
    (draft / "export.json").write_text(text + "\n", encoding="utf-8")


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
    size = split.vllm_rank(rank)
    if size is None:
        most = split.VLLM_RANKS[-1]
        logger.warning("rank %d: vLLM takes adapters up to %d only; export without --pure_lora, merged", rank, most)
        return
    words = [str(out / BASE_FOLDER), "--enable-lora", "--max-lora-rank", str(size)]
    logger.info("  vllm serve %s", shlex.join([*words, "--lora-modules", f"tuned={out / ADAPTER_FOLDER}"]))
