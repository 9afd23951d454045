"""`yangtuo merge`: put adapters into their base, write a plain model, and prove that it is the same model."""

import argparse
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import PreTrainedConfig

from yangtuo import __version__
from yangtuo.data.tokenizer import Tokenizer, is_tokenizer_folder, open_tokenizer
from yangtuo.errors import AdapterError, ModelError, RunFailure, UsageError
from yangtuo.export import merge, merge_fit, merge_plan, merge_proof
from yangtuo.export.new_folder import check_new, check_space, make_draft
from yangtuo.model import adapter_files, fingerprint, provenance
from yangtuo.model.adapter_files import SavedAdapter
from yangtuo.model.base import read_config
from yangtuo.model.folders import local_folder
from yangtuo.model.lora_options import names
from yangtuo.model.weight_files import WeightFiles, open_weights

logger = logging.getLogger(__name__)

RECORD_FILE = "merge.json"
_Result = TypeVar("_Result")
DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_PROBES = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "请介绍一下长城的历史，并说明它为什么重要。",
    "机器学习是人工智能的一个分支，它让计算机从数据中学习。",
    "def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)",
)
_NUM_SPREAD = 24  # ids of the probe that is no text


def add_options(parser: argparse.ArgumentParser, *, needs_adapter: bool = True) -> None:
    """The verb's options; without `needs_adapter`, those of a verb that can do without."""
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
    parser.add_argument("--cache_dir", help="Where hub models are kept. Default: the hub's own cache.")


def run(options: argparse.Namespace) -> None:
    """Check, write, prove twice, and give the folder its name.

    Raises:
        UserError: base, adapters or output folder cannot be used; nothing was written.
        RunFailure: writing failed, or a proof; then the folder is called `DIR.failed-proof`.
    """
    output_dir = Path(options.output_dir)
    check_new(output_dir, "output_dir")
    folder = local_folder(
        options.model_name_or_path,
        option="model_name_or_path",
        must_hold=["config.json"],
        cache_dir=options.cache_dir,
    )
    config, base = read_config(folder), open_weights(folder)
    opened = open_adapters(options, folder, config)
    adapters, hashes, merged_before = opened.adapters, opened.hashes, opened.merged_before
    plan = merge_plan.plan(base, config, adapters, opened.allowed)
    tokenizer = find_tokenizer(adapters, folder, plan.chain.num_rows, force=options.force_base)
    dtype = DTYPES[options.dtype]
    num_bytes = sum(spec.num_bytes for spec in plan.chain.specs(base, dtype).values())
    check_space(output_dir, num_bytes, "output_dir")

    draft = output_dir.with_name(f"{output_dir.name}.unproven")
    make_draft(draft, "output_dir")
    try:
        started = time.monotonic()
        written = merge.write(base, plan.chain, draft, dtype)
        write_small_files(folder, draft, plan.chain, dtype, tokenizer, [*merged_before, *hashes])
        template = next((each["template"] for each in reversed(opened.known) if each), None)
        if template:  # how the model is asked goes with it
            text = provenance.to_text({"yangtuo": __version__, "template": template})
            (draft / provenance.PROVENANCE_FILE).write_text(text, encoding="utf-8")
        logger.info("written: %.2f GB in %.0f s", num_bytes / 1e9, time.monotonic() - started)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    proofs = or_set_aside(draft, output_dir, lambda: _prove(base, plan, draft, dtype, tokenizer))
    record = {
        "yangtuo": __version__,
        "base": {
            "name": options.model_name_or_path,
            "folder": str(folder.resolve()),
            "config_sha256": hashlib.sha256((folder / "config.json").read_bytes()).hexdigest(),
            "tensors_sha256": written.base_sha256,
            "merged_before": merged_before,
        },
        "adapters": [
            {"folder": str(saved.folder.resolve()), "sha256": sha256}
            for saved, sha256 in zip(adapters, hashes, strict=True)
        ],
        "dtype": options.dtype,
        "vocabulary_rows": plan.chain.num_rows,
        "tied": plan.chain.is_tied,
        "files": dict(written.files),
        "proofs": proofs,
    }
    (draft / RECORD_FILE).write_text(json.dumps(record, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    if output_dir.exists():
        output_dir.rmdir()  # empty, as checked at the start
    draft.rename(output_dir)
    logger.info("merged and proven: %s", output_dir)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    return value if isinstance(value, dict) else {}


@dataclass(frozen=True)
class Opened:
    """Adapters that may be merged, in order, with what is known of them.

    Attributes:
        adapters: as read.
        hashes: SHA-256 of their weights.
        known: what they say of themselves; None of those that say nothing.
        merged_before: SHA-256 of the adapters that are in the base already.
        allowed: what the user has allowed.
    """

    adapters: list[SavedAdapter]
    hashes: list[str]
    known: list[dict[str, Any] | None]
    merged_before: list[str]
    allowed: merge_fit.Allowed


def open_adapters(options: argparse.Namespace, folder: Path, config: PreTrainedConfig) -> Opened:
    """Read the adapters of `--peft_path`, with those that they lie on, and compare their fingerprints with the base.

    Raises:
        AdapterError: one that was trained on another base, or is merged already.
    """
    merged_before = fingerprint.merged_into(folder)
    adapters = _with_those_below(names(options.peft_path), merged_before)
    hashes = [provenance.sha256_of(saved.folder) for saved in adapters]
    _check_not_merged_yet(adapters, hashes, merged_before, folder)
    known = [
        fingerprint.check(saved.folder, folder, config, merged=hashes[:i], force=options.force_base)
        for i, saved in enumerate(adapters)
    ]
    allowed = merge_fit.Allowed(options.allow_new_vocabulary, options.allow_partial_adapter)
    return Opened(adapters, hashes, known, merged_before, allowed)


def _with_those_below(paths: Sequence[str], merged_before: Sequence[str]) -> list[SavedAdapter]:
    """The adapters, and before each one that was trained on top of others, those others where they still lie."""
    found: list[SavedAdapter] = []
    present = list(merged_before)
    for path in paths:
        saved = adapter_files.read(path, is_optional=False)
        for place in provenance.below(saved.folder, present):
            logger.warning("%s was trained on top of %s, which is merged first", path, place)
            found.append(adapter_files.read(str(place), is_optional=False))
        found.append(saved)
        present = [*merged_before, *(provenance.sha256_of(each.folder) for each in found)]
    return found


def _check_not_merged_yet(
    adapters: Sequence[SavedAdapter], hashes: Sequence[str], merged_before: Sequence[str], folder: Path
) -> None:
    for i, (saved, sha256) in enumerate(zip(adapters, hashes, strict=True)):
        if sha256 in merged_before:
            raise AdapterError(f"{saved.folder}: {folder} has this very adapter in it already; give the base of before")
        if sha256 in hashes[:i]:
            raise AdapterError(
                f"--peft_path: {saved.folder} is the same adapter as {adapters[hashes.index(sha256)].folder}"
            )


def find_tokenizer(adapters: Sequence[SavedAdapter], folder: Path, num_rows: int, *, force: bool) -> Tokenizer | None:
    """The last adapter's that has one, else the base's.

    Raises:
        UsageError: it has more tokens than the model rows.
    """
    places = (*(saved.folder for saved in reversed(adapters)), folder)
    found = next((place for place in places if is_tokenizer_folder(place)), None)
    if found is None:
        logger.warning("tokenizer: neither adapter nor base has one; the merged folder has none")
        return None
    tokenizer = open_tokenizer(found)
    if adapters and not is_tokenizer_folder(adapters[-1].folder):
        last = adapters[-1].folder
        fingerprint.check_tokenizer(provenance.read(last), last, tokenizer, force=force)
    if tokenizer.num_tokens > num_rows:
        raise UsageError(
            f"{found}: its tokenizer has {tokenizer.num_tokens:,} tokens, the merged model {num_rows:,} rows"
        )
    return tokenizer


def write_small_files(
    folder: Path,
    draft: Path,
    chain: merge.Chain,
    dtype: torch.dtype | None,
    tokenizer: Tokenizer | None,
    hashes: Sequence[str],
) -> None:
    """config.json with what has changed, generation_config.json, the tokenizer.

    Raises:
        RunFailure: they cannot be written.
    """
    config = _read_json(folder / "config.json")
    config["vocab_size"] = chain.num_rows
    if not chain.is_tied:
        config["tie_word_embeddings"] = False
    if dtype is not None:
        for key in [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]:
            config[key] = str(dtype).removeprefix("torch.")
    config[fingerprint.MERGED_KEY] = list(hashes)
    try:
        (draft / "config.json").write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        if (folder / "generation_config.json").is_file():
            shutil.copyfile(folder / "generation_config.json", draft / "generation_config.json")
        if tokenizer:
            tokenizer.save(draft)
    except OSError as error:
        raise RunFailure(f"{draft}: cannot be written: {error.strerror}") from error


def or_set_aside(draft: Path, out: Path, prove: Callable[[], _Result]) -> _Result:
    """Prove a draft; one that fails is renamed after the folder that it was to be.

    Raises:
        RunFailure: what the proof found, and the new name.
    """
    try:
        return prove()
    except RunFailure as error:
        failed = out.with_name(f"{out.name}.failed-proof")
        number = 1
        while failed.exists():
            number += 1
            failed = out.with_name(f"{out.name}.failed-proof-{number}")
        draft.rename(failed)
        raise RunFailure(f"{error}; do not use what was written, it is in {failed}") from error
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _prove(
    base: WeightFiles, plan: merge_plan.Plan, draft: Path, dtype: torch.dtype | None, tokenizer: Tokenizer | None
) -> Mapping[str, Any]:
    merged, config = _reopened(draft)
    started = time.monotonic()
    tensors = merge_proof.prove_tensors(base, plan.chain, merged, dtype)
    logger.info(
        "proof by tensors: %d tensors, %d changed, at most %.2f of what rounding allows; others bit-equal (%.0f s)",
        tensors.num_tensors,
        tensors.num_changed,
        tensors.max_error,
        time.monotonic() - started,
    )
    if tensors.num_lost:
        logger.warning(
            "%d tensors came out as in the base: what the adapter changes there is below the dtype's rounding",
            tensors.num_lost,
        )
    started = time.monotonic()
    logits = merge_proof.prove_logits(base, plan, merged, config, probes(tokenizer, plan.chain.num_rows))
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


def _reopened(draft: Path) -> tuple[WeightFiles, PreTrainedConfig]:
    try:
        return open_weights(draft), read_config(draft)
    except ModelError as error:
        raise RunFailure(f"proof failed: {error}") from error


def probes(tokenizer: Tokenizer | None, num_rows: int) -> list[list[int]]:
    """Token ids to compare logits on: texts, and ids from all over the vocabulary with its last rows."""
    spread = [i * (num_rows - 1) // (_NUM_SPREAD // 2) for i in range(_NUM_SPREAD // 2)]
    spread += [max(0, num_rows - 1 - i) for i in range(_NUM_SPREAD // 2)]
    if tokenizer is None:
        return [spread, spread[::-1]]
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    return [spread, *([*start, *ids] for ids in tokenizer.encode(_PROBES) if ids)]
