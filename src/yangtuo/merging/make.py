"""A merged folder: written, proven by tensors and by logits, with a record of what was merged."""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from yangtuo import __version__
from yangtuo.data.template_json import from_values, to_values
from yangtuo.data.tokenizer import Tokenizer
from yangtuo.errors import ModelError, ProofError
from yangtuo.merging import edits, tensor_proof, verify
from yangtuo.merging.job import Job
from yangtuo.model import fingerprint, generation_config, provenance
from yangtuo.model.dtypes import name_of
from yangtuo.model.prompt_files import CARD, PromptFiles, prompt_files_of
from yangtuo.model.stored_weights import StoredWeights, open_stored

logger = logging.getLogger(__name__)

RECORD_FILE = "merge.json"
_PROBES = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "请介绍一下长城的历史，并说明它为什么重要。",
    "机器学习是人工智能的一个分支，它让计算机从数据中学习。",
    "def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)",
)
# How generation begins, and how pictures become numbers: the same for the merged model.
_BESIDE = (
    *("generation_config.json", "preprocessor_config.json", "video_preprocessor_config.json"),
    "processor_config.json",
)
_NUM_SPREAD = 24  # ids of the probe that is no text


def prompt_files_for(job: Job) -> PromptFiles | None:
    """How the merged model is asked: as the last adapter that tells it; None where none does."""
    values = next((each["template"] for each in reversed(job.known) if each), None)
    if not values or not job.tokenizer:
        if job.tokenizer:
            logger.warning("prompts: no adapter tells the template of its training; the tokenizer's own is kept")
        return None
    existing = generation_config.first_of([*(saved.folder for saved in reversed(job.adapters)), job.folder])
    made = prompt_files_of(from_values(values), job.tokenizer, existing[1] if existing else None)
    return made.tried(job.folder / "config.json")


def write_merged(job: Job, draft: Path, base_name: str, prompt_files: PromptFiles | None) -> None:
    """Write a merged folder, prove it, and tell in it what was merged; `base_name` is how the base was named.

    Raises:
        ProofError: it is not the base with its adapters.
        RunFailure: a weight does not fit the dtype.
    """
    started = time.monotonic()
    chain, hashes = job.plan.chain, [saved.sha256 for saved in job.adapters]
    written = edits.write(job.base, chain, draft, job.dtype)
    write_small_files(job, draft, chain, [*job.merged_before, *hashes])
    (draft / CARD).write_text(_card(job, base_name), encoding="utf-8")
    if prompt_files:  # in place of the base's own
        save_prompt_files(prompt_files, draft)
    num_bytes = sum(spec.num_bytes for spec in chain.specs(job.base, job.dtype).values())
    logger.info("written: %.2f GB in %.0f s", num_bytes / 1e9, time.monotonic() - started)
    record = {
        "yangtuo": __version__,
        "base": {
            "name": base_name,
            "folder": str(job.folder.resolve()),
            "config_sha256": hashlib.sha256((job.folder / "config.json").read_bytes()).hexdigest(),
            "tensors_sha256": written.base_sha256,
            "merged_before": job.merged_before,
        },
        "adapters": [{"folder": str(saved.folder.resolve()), "sha256": saved.sha256} for saved in job.adapters],
        "dtype": "auto" if job.dtype is None else name_of(job.dtype),
        "vocabulary_rows": chain.num_rows,
        "tied": chain.is_tied,
        "files": dict(written.files),
        "proofs": _prove(job, draft),
    }
    (draft / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def save_prompt_files(prompt_files: PromptFiles, folder: Path) -> None:
    """How a model without adapters is asked, also by this program."""
    prompt_files.save_prompt(folder)
    text = provenance.to_text({"yangtuo": __version__, "template": to_values(prompt_files.template)})
    (folder / provenance.PROVENANCE_FILE).write_text(text, encoding="utf-8")


def _card(job: Job, base_name: str) -> str:
    adapters = "".join(f"- `{saved.folder}`\n" for saved in job.adapters)
    text = f"# {Path(base_name).name}, with adapters merged in\n\nBase: `{base_name}`. Adapters, in their order:\n\n"
    return f"{text}{adapters}\n`{RECORD_FILE}` tells the proofs of the merge.\n".encode(
        errors="backslashreplace"
    ).decode()


def write_small_files(job: Job, draft: Path, chain: edits.WeightEdits, hashes: Sequence[str]) -> None:
    """config.json with what has changed and what is merged in, generation_config.json, the tokenizer, its own code."""
    config = json.loads((job.folder / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config", {})  # of a base with several towers
    (text if "vocab_size" not in config and text else config)["vocab_size"] = chain.num_rows
    if not chain.is_tied:
        config["tie_word_embeddings"] = False
        if "tie_word_embeddings" in text:
            text["tie_word_embeddings"] = False
    if job.dtype is not None:
        for key in [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]:
            config[key] = name_of(job.dtype)
    config[fingerprint.MERGED_KEY] = list(hashes)
    (draft / "config.json").write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    for name in _BESIDE:
        if (job.folder / name).is_file():
            shutil.copyfile(job.folder / name, draft / name)
    if config.get("auto_map"):
        for path in job.folder.glob("*.py"):
            shutil.copyfile(path, draft / path.name)
    if job.tokenizer:
        job.tokenizer.save(draft)


def _prove(job: Job, draft: Path) -> Mapping[str, Any]:
    merged = reopened(draft, job)
    started = time.monotonic()
    tensors = tensor_proof.prove_tensors(job.base, job.plan.chain, merged, job.dtype)
    logger.info(
        "proof by tensors: %d tensors, %d changed, at most %.2f of what rounding allows; others bit-equal (%.0f s)",
        tensors.num_tensors,
        tensors.num_changed,
        tensors.max_error,
        time.monotonic() - started,
    )
    if tensors.num_lost:
        logger.warning(
            "%d tensors came out as in the base: the adapter changes nothing there, or less than the dtype's rounding",
            tensors.num_lost,
        )
    started = time.monotonic()
    logits = verify.prove_logits(job.base, job.plan, merged, probes(job.tokenizer, job.plan.chain.num_rows))
    logger.info(
        "proof by logits: differ by %.2g at most, rounding explains %.2g, the largest is %.3g; "
        "same first choice at %.1f %% of %d tokens (%.0f s)",
        logits.max_difference,
        logits.limit,
        logits.max_logit,
        100 * logits.same_choice,
        logits.num_tokens,
        time.monotonic() - started,
    )
    return {"tensors": asdict(tensors), "logits": asdict(logits)}


def reopened(draft: Path, job: Job) -> StoredWeights:
    """What was just written.

    Raises:
        ProofError: it cannot be read.
    """
    try:
        return open_stored(draft, trust_remote_code=job.base.trust_remote_code)
    except ModelError as error:
        raise ProofError("proof failed: {error}", error=error) from error


def probes(tokenizer: Tokenizer | None, num_rows: int) -> list[list[int]]:
    """Token ids to compare logits on: texts, and ids from all over the vocabulary with its last rows."""
    spread = [i * (num_rows - 1) // (_NUM_SPREAD // 2) for i in range(_NUM_SPREAD // 2)]
    spread += [max(0, num_rows - 1 - i) for i in range(_NUM_SPREAD // 2)]
    if tokenizer is None:
        return [spread, spread[::-1]]
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    return [spread, *([*start, *ids] for ids in tokenizer.encode(_PROBES) if ids)]
