"""The folder that `yangtuo export` writes, from which other programs ask the model as training did.

With adapters, they are merged into the base first, with the proofs of `yangtuo merge`. Beside the weights lie what asks
the model as training did: chat_template.jinja, generation_config.json with the end tokens, an Ollama Modelfile,
prompt.txt; with --gguf a file for llama.cpp. With --pure_lora there are two folders instead: a base that has the
adapter's modules_to_save inside, and a plain LoRA for it.
"""

import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from yangtuo import __version__
from yangtuo.data.encoding import prompt_ids
from yangtuo.data.records import Turn
from yangtuo.data.template_json import to_values
from yangtuo.errors import AdapterError, DataError, ModelError, ProofError, UsageError
from yangtuo.exporting import plain_lora
from yangtuo.exporting.gguf import convert
from yangtuo.merging import edits, fit, make, tensor_proof, verify
from yangtuo.merging import plan as merge_plan
from yangtuo.merging.job import Job
from yangtuo.model import adapter_files, fingerprint, generation_config, prompt_texts, provenance
from yangtuo.model.architecture import published, read_config
from yangtuo.model.prompt_files import CHAT_TEMPLATE, PromptFiles, prompt_files_of
from yangtuo.model.stored_weights import StoredWeights
from yangtuo.output import check_space

logger = logging.getLogger(__name__)

BASE_FOLDER, ADAPTER_FOLDER = "base", "adapter"  # of --pure_lora
_PROBE = (Turn("user", "?", trained=False),)
_LINKED_BYTES = 1 << 20  # files of weights are linked, texts are written anew


@dataclass(frozen=True)
class Texts:
    """What asks the model, by file name; made before anything is written."""

    prompt_files: PromptFiles
    files: Mapping[str, str]  # beside those of `prompt_files`
    choosing: Mapping[str, float]  # of the tokens of an answer


def texts_of(
    job: Job | None,
    folder: Path,
    template: str | None,
    system_prompt: str | None,
    kwargs: Mapping[str, Any] | None = None,
) -> Texts:
    """What asks the model.

    Args:
        job: the merge; None where a model without adapters is exported.
        folder: of the base, or of that model.
        template: name or file; None for the one that travels with adapter or model.
        system_prompt: of dialogues without one; None for the template's.
        kwargs: what a chat template is given beside the messages; None for what it was given in training.

    Raises:
        UserError: there is no tokenizer, or the template does not fit it.
    """
    folders = [*(saved.folder for saved in reversed(job.adapters if job else [])), folder]
    tokenizer = job.tokenizer if job else provenance.find_tokenizer(folders)
    if tokenizer is None:
        raise UsageError("neither adapter nor base holds a tokenizer; copy its files into the folder of one")
    found, why = provenance.find_template(folders, tokenizer, template, system_prompt, kwargs)
    prompt_ids(tokenizer, found, _PROBE)  # it fits the tokenizer, or the error comes before the weights
    logger.info("template: %s (%s)", found.name, why)
    if template is not None or system_prompt is not None:
        provenance.tell_other(folders, found)
    if job and template is None and not any(provenance.template_of(saved.folder) for saved in job.adapters):
        logger.warning("template: none travels with the adapter; name the one of its training with --template")
    existing = generation_config.first_of(folders)
    prompt_files = prompt_files_of(found, tokenizer, existing[1] if existing else None)
    values = json.loads(prompt_files.files[generation_config.GENERATION_CONFIG])
    try:
        files = {"prompt.txt": prompt_texts.prompt_text_of(found, tokenizer)}
    except DataError as error:
        logger.warning("prompt.txt is not written: %s", error)
        files = {}
    return Texts(prompt_files.tried(folder / "config.json"), files, generation_config.choosing(values, folder)[0])


def write_whole(
    source: Job | StoredWeights, draft: Path, out: Path, texts: Texts, *, base_name: str, gguf: str | None
) -> None:
    """A merged model, or a copy of one that is plain already, with what asks it; with `gguf`, as such a file too.

    Raises:
        ProofError: the merged weights are not the base with its adapters, or the file not the model.
        RunFolderError: too little space.
    """
    if isinstance(source, StoredWeights):
        _copy(source, draft, out)
        make.save_prompt_files(texts.prompt_files, draft)
    else:
        make.write_merged(source, draft, base_name, texts.prompt_files)
    _write_texts(texts, draft)
    file = gguf_name(gguf)
    if file and gguf:
        convert.write(draft, draft / file, gguf, texts.prompt_files.files[CHAT_TEMPLATE], option="output_dir")
    _write_modelfile(texts, draft, file)


def gguf_name(kind: str | None) -> str | None:
    """Of the file of that kind."""
    return f"model-{kind}.gguf" if kind else None


def _write_texts(texts: Texts, place: Path) -> None:
    for name, text in texts.files.items():
        (place / name).write_text(text, encoding="utf-8", newline="")


def _write_modelfile(texts: Texts, place: Path, file: str | None) -> None:
    try:
        text = prompt_texts.modelfile_of(
            texts.prompt_files.template, texts.prompt_files.tokenizer, f"./{file}" if file else ".", texts.choosing
        )
    except DataError as error:
        logger.warning("Modelfile is not written: %s", error)
        return
    (place / "Modelfile").write_text(text, encoding="utf-8", newline="")


def _copy(weights: StoredWeights, draft: Path, out: Path) -> None:
    """A model without adapters: its files under the new name, without a second copy on disk where that can be."""
    merge_plan.start(weights)  # says whether the folder is whole
    check_space(out, sum(spec.num_bytes for spec in weights.files.specs.values()), "output_dir")
    for path in sorted(weights.folder.iterdir()):
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


def write_split(job: Job, draft: Path, out: Path, texts: Texts) -> None:
    """A base with the adapter's modules_to_save inside, and a plain LoRA for it.

    Raises:
        ProofError: together they are not the base with the adapter.
    """
    known = published(job.base.config, trust_remote_code=job.base.trust_remote_code)
    chain, lora = plain_lora.base_of(job.plan), plain_lora.lora_of(job.plan.last, str(out / BASE_FOLDER), known)
    base, adapter = draft / BASE_FOLDER, draft / ADAPTER_FOLDER
    base.mkdir()
    edits.write(job.base, chain, base, job.dtype)
    *below, last = (saved.sha256 for saved in job.adapters)
    make.write_small_files(job, base, chain, [*job.merged_before, *below, f"{last} (modules_to_save)"])
    config = read_config(base, trust_remote_code=job.base.trust_remote_code)
    plain_lora.write_lora(lora, adapter, _provenance_of(job, base, out / BASE_FOLDER, config, texts.prompt_files))
    texts.prompt_files.save(adapter)
    _prove(job, chain, draft)
    make.save_prompt_files(texts.prompt_files, base)
    _write_texts(texts, base)


def _provenance_of(
    job: Job, base: Path, name: Path, config: PreTrainedConfig, prompt_files: PromptFiles
) -> dict[str, Any]:
    """The plain LoRA's, for its new base."""
    return {
        **(job.known[-1] or {}),
        "yangtuo": __version__,
        "base": fingerprint.of_base(str(name), base, config),
        "stack": [],
        "tokenizer": {"sha256": prompt_files.tokenizer.sha256(), "num_tokens": prompt_files.tokenizer.num_tokens},
        "template": to_values(prompt_files.template),
    }


def _prove(job: Job, chain: edits.WeightEdits, draft: Path) -> None:
    try:
        new_base = make.reopened(draft / BASE_FOLDER, job)
        saved = adapter_files.read(str(draft / ADAPTER_FOLDER), is_optional=False)
        plan = merge_plan.plan(new_base, [saved], fit.Allowed())
    except (ModelError, AdapterError) as error:
        raise ProofError("proof failed: {error}", error=error) from error
    tensors = tensor_proof.prove_tensors(job.base, chain, new_base, job.dtype)
    probes = make.probes(job.tokenizer, chain.num_rows)
    logits = verify.prove_split(job.base, job.plan, new_base, plan, probes)
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
