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
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from yangtuo import __version__
from yangtuo.data.saved_template import to_values
from yangtuo.data.templates import Template
from yangtuo.data.tokenizer import Tokenizer, is_tokenizer_folder, open_tokenizer
from yangtuo.errors import AdapterError, DataError, ModelError, RunFailure, UsageError
from yangtuo.export import (
    gguf,
    gguf_model,
    gguf_vocabulary,
    merge,
    merge_fit,
    merge_plan,
    merge_proof,
    merge_verb,
    serving,
    split,
)
from yangtuo.export.new_folder import check_new, check_space, make_draft
from yangtuo.model import adapter_files, fingerprint, provenance
from yangtuo.model.adapter_files import SavedAdapter
from yangtuo.model.base import read_config
from yangtuo.model.folders import local_folder
from yangtuo.model.lora_options import names
from yangtuo.model.weight_files import WeightFiles, open_weights

logger = logging.getLogger(__name__)

BASE_FOLDER, ADAPTER_FOLDER = "base", "adapter"  # of --pure_lora


@dataclass(frozen=True)
class Texts:
    """What asks the model, by file name; made before anything is written."""

    files: Mapping[str, str]
    template: Template


def add_options(parser: argparse.ArgumentParser) -> None:
    """The verb's options: those of merge, and what is written beside the weights."""
    merge_verb.add_options(parser, needs_adapter=False)
    parser.add_argument(
        "--template",
        help="Of the training, as --template of train. Default: the one that travels with adapter or model, else auto.",
    )
    parser.add_argument("--system_prompt", help="Of dialogues without one, instead of the template's own.")
    parser.add_argument("--gguf", choices=tuple(gguf_model.KINDS), help="Also write one file for llama.cpp and Ollama.")
    parser.add_argument(
        "--pure_lora",
        action="store_true",
        help="Write base/ with the adapter's full modules inside and adapter/ with LoRA alone, as vLLM loads them.",
    )


def run(options: argparse.Namespace) -> None:
    """Merge or copy, prove, and write the texts.

    Raises:
        UserError: something that was given cannot be used; nothing was written.
        RunFailure: writing failed, or a proof.
    """
    out = Path(options.output_dir)
    check_new(out, "output_dir")
    folder = local_folder(
        options.model_name_or_path,
        option="model_name_or_path",
        must_hold=["config.json"],
        cache_dir=options.cache_dir,
    )
    if options.pure_lora and (options.gguf or not options.peft_path):
        why = "a GGUF file is of a merged model" if options.gguf else "it divides the adapter of --peft_path"
        raise UsageError(f"--pure_lora: {why}; give {'one of them' if options.gguf else 'both'}")
    adapters = [Path(path) for path in names(options.peft_path)]
    texts, tokenizer = _texts(options, [*reversed(adapters), folder], folder)
    if options.gguf:  # what llama.cpp does not know is refused before hours of merging
        config = read_config(folder)
        gguf_model.architecture(folder, config)
        gguf_vocabulary.fields(tokenizer, max(config.get_text_config().vocab_size, tokenizer.num_tokens))
    if options.pure_lora:
        _export_pure_lora(options, folder, out, texts)
        place = out / BASE_FOLDER
    elif adapters:
        merge_verb.run(options)
        place = out
    else:
        _copy(options, folder, out)
        place = out
    for name, text in texts.files.items():
        (place / name).write_text(text, encoding="utf-8", newline="")
    text = provenance.to_text({"yangtuo": __version__, "template": to_values(texts.template)})
    (place / provenance.PROVENANCE_FILE).write_text(text, encoding="utf-8")
    file = None
    if options.gguf:
        file = f"model-{options.gguf}.gguf"
        gguf.write(place, place / file, options.gguf, texts.files["chat_template.jinja"], option="output_dir")
    if not options.pure_lora:
        _write_modelfile(texts.template, tokenizer, place, file)
    _tell(out, options, file)


def _texts(options: argparse.Namespace, folders: list[Path], base: Path) -> tuple[Texts, Tokenizer]:
    found = next((place for place in folders if is_tokenizer_folder(place)), None)
    if found is None:
        raise UsageError("neither adapter nor base holds a tokenizer; copy its files into the folder of one")
    tokenizer = open_tokenizer(found)
    template, why = provenance.find_template(folders, tokenizer, options.template, options.system_prompt)
    logger.info("template: %s (%s)", template.name, why)
    existing = base / "generation_config.json"
    try:
        generation = json.loads(existing.read_text(encoding="utf-8")) if existing.is_file() else None
    except ValueError as error:
        raise ModelError(f"{existing}: broken JSON: {error}") from error
    if not isinstance(generation, dict | None):
        raise ModelError(f"{existing}: expected an object of JSON; mend it, or remove it")
    values = serving.generation_config_of(generation, tokenizer, template)
    files = {
        "chat_template.jinja": serving.jinja_of(template, tokenizer),
        "generation_config.json": json.dumps(values, ensure_ascii=False, indent=2) + "\n",
    }
    try:
        files["prompt.txt"] = serving.prompt_text_of(template, tokenizer)
    except DataError as error:
        logger.warning("prompt.txt is not written: %s", error)
    return Texts(files, template), tokenizer


def _copy(options: argparse.Namespace, folder: Path, out: Path) -> None:
    """A model without adapters: its files under the new name, without a second copy on disk where that can be."""
    if options.dtype != "auto":
        raise UsageError(f"--dtype {options.dtype}: weights are rounded when adapters are merged; none is given")
    weights = open_weights(folder)
    merge_plan.start(weights, read_config(folder))  # says whether the folder is whole
    check_space(out, sum(spec.num_bytes for spec in weights.specs.values()), "output_dir")
    draft = out.with_name(f"{out.name}.unproven")
    make_draft(draft, "output_dir")
    try:
        for path in sorted(folder.iterdir()):
            if path.is_file() and not path.name.startswith(".") and not _is_written_anew(path):
                # Texts are written anew, into files of their own.
                shutil.copy2(path, draft, follow_symlinks=True) if path.stat().st_size < 1 << 20 else _link(path, draft)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise RunFailure(f"{draft}: cannot be written: {error.strerror}") from error
    _finish(draft, out)


def _is_written_anew(path: Path) -> bool:
    return path.suffix in (".gguf", ".md") or path.name in ("Modelfile", "prompt.txt")


def _link(path: Path, folder: Path) -> None:
    try:
        os.link(path.resolve(), folder / path.name)
    except OSError:  # another disk, or a file system without links
        shutil.copy2(path, folder, follow_symlinks=True)


def _finish(draft: Path, out: Path) -> None:
    if out.exists():
        out.rmdir()  # empty, as checked at the start
    draft.rename(out)


def _export_pure_lora(options: argparse.Namespace, folder: Path, out: Path, texts: Texts) -> None:
    config = read_config(folder)
    opened = merge_verb.open_adapters(options, folder, config)
    base, dtype = open_weights(folder), merge_verb.DTYPES[options.dtype]
    plan = merge_plan.plan(base, config, opened.adapters, opened.allowed)
    chain = split.base_of(plan)
    lora = split.lora_of(plan.last, str(out / BASE_FOLDER))
    tokenizer = merge_verb.find_tokenizer(opened.adapters, folder, chain.num_rows, force=options.force_base)
    check_space(out, sum(spec.num_bytes for spec in chain.specs(base, dtype).values()), "output_dir")
    draft = out.with_name(f"{out.name}.unproven")
    make_draft(draft, "output_dir")
    try:
        (draft / BASE_FOLDER).mkdir()
        merge.write(base, chain, draft / BASE_FOLDER, dtype)
        hashes = [*opened.merged_before, *opened.hashes[:-1], f"{opened.hashes[-1]} (full modules)"]
        merge_verb.write_small_files(folder, draft / BASE_FOLDER, chain, dtype, tokenizer, hashes)
        new_config = read_config(draft / BASE_FOLDER)
        known = _provenance_of(opened.known[-1], draft / BASE_FOLDER, out / BASE_FOLDER, new_config, texts, tokenizer)
        split.write_lora(lora, draft / ADAPTER_FOLDER, known)
        if tokenizer:
            tokenizer.save(draft / ADAPTER_FOLDER)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    merge_verb.or_set_aside(draft, out, _prove_split(base, plan, chain, draft, dtype, tokenizer))
    _finish(draft, out)


def _prove_split(
    base: WeightFiles,
    plan: merge_plan.Plan,
    chain: merge.Chain,
    draft: Path,
    dtype: torch.dtype | None,
    tokenizer: Tokenizer | None,
) -> Callable[[], None]:
    def prove() -> None:
        try:
            new_base = open_weights(draft / BASE_FOLDER)
            saved: SavedAdapter = adapter_files.read(str(draft / ADAPTER_FOLDER), is_optional=False)
            new_plan = merge_plan.plan(new_base, read_config(draft / BASE_FOLDER), [saved], merge_fit.Allowed())
        except (ModelError, AdapterError) as error:
            raise RunFailure(f"proof failed: {error}") from error
        tensors = merge_proof.prove_tensors(base, chain, new_base, dtype)
        probes = merge_verb.probes(tokenizer, chain.num_rows)
        logits = merge_proof.prove_split(base, plan, new_base, new_plan, probes)
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

    return prove


def _provenance_of(
    before: Mapping[str, Any] | None, draft: Path, out: Path, config: PreTrainedConfig, texts: Texts, tokenizer: Any
) -> dict[str, Any]:
    """The adapter's, for its new base."""
    return {
        **(before or {}),
        "yangtuo": __version__,
        "base": fingerprint.of_base(str(out), draft, config),
        "stack": [],
        "tokenizer": {"sha256": tokenizer.sha256() if tokenizer else None, "num_tokens": config.vocab_size},
        "template": to_values(texts.template),
    }


def _write_modelfile(template: Template, tokenizer: Tokenizer, place: Path, file: str | None) -> None:
    try:
        text = serving.modelfile_of(template, tokenizer, f"./{file}" if file else ".")
    except DataError as error:
        logger.warning("Modelfile is not written: %s", error)
        return
    (place / "Modelfile").write_text(text, encoding="utf-8", newline="")


def _tell(out: Path, options: argparse.Namespace, file: str | None) -> None:
    logger.info("exported: %s", out)
    if options.pure_lora:
        lora = f"tuned={out / ADAPTER_FOLDER}"
        logger.info("  vllm serve %s --enable-lora --lora-modules %s", out / BASE_FOLDER, lora)
        return
    if (out / "Modelfile").is_file():
        logger.info("  ollama create NAME -f %s", out / "Modelfile")
    if file:
        logger.info("  llama-server -m %s --jinja", out / file)
    logger.info("  vllm serve %s", out)
    logger.info("  then: yangtuo check-deploy --url http://127.0.0.1:8000 --model_dir %s", out)
