"""What a merge is made of: base, adapters in their order, tokenizer, plan. Opened and compared; nothing is written."""

import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from yangtuo.data.tokenizer import Tokenizer, is_tokenizer_folder, open_tokenizer
from yangtuo.errors import AdapterError, UsageError
from yangtuo.merging import fit
from yangtuo.merging import plan as merge_plan
from yangtuo.merging.options import DTYPE_NAMES, MergeOptions
from yangtuo.model import adapter_files, dtypes, fingerprint, provenance
from yangtuo.model.adapter_files import SavedAdapter
from yangtuo.model.lora_targets import split as names
from yangtuo.model.stored_weights import StoredWeights, open_stored
from yangtuo.output import check_space

logger = logging.getLogger(__name__)

_DTYPES: dict[str, torch.dtype | None] = {name: dtypes.BY_NAME.get(name) for name in DTYPE_NAMES}


@dataclass(frozen=True)
class Job:
    """A merge that can be done.

    Attributes:
        folder: of the base.
        base: its weights.
        adapters: in their order, with those that they were trained on top of.
        known: what the adapters say of themselves; None of those that say nothing.
        merged_before: SHA-256 of the adapters that are in the base already.
        plan: what becomes of each tensor.
        tokenizer: the last adapter's that has one, else the base's; None where there is none.
        dtype: of the merged weights; None for the base's.
    """

    folder: Path
    base: StoredWeights
    adapters: list[SavedAdapter]
    known: list[dict[str, Any] | None]
    merged_before: list[str]
    plan: merge_plan.Plan
    tokenizer: Tokenizer | None
    dtype: torch.dtype | None


def prepare(options: MergeOptions, folder: Path) -> Job:
    """Open what is to be merged, and compare it: fingerprints, shapes, rows, order, tokenizer.

    Raises:
        UserError: something cannot be used, or does not fit.
    """
    base = open_stored(folder, trust_remote_code=options.trust_remote_code)
    merged_before = fingerprint.merged_into(folder)
    adapters = _with_those_below(names(options.peft_path), merged_before)
    _check_not_merged_yet(adapters, merged_before, folder)
    _check_not_continued(adapters, options.model_name_or_path)
    hashes = [saved.sha256 for saved in adapters]
    known = [
        fingerprint.check(saved.folder, folder, base.config, merged=hashes[:i], force=options.force_base)
        for i, saved in enumerate(adapters)
    ]
    allowed = fit.Allowed(options.allow_new_vocabulary, options.allow_partial_adapter)
    plan = merge_plan.plan(base, adapters, allowed)
    tokenizer = _tokenizer([*(saved.folder for saved in reversed(adapters)), folder], plan.chain.num_rows)
    if tokenizer:
        fingerprint.check_tokenizer(known[-1], adapters[-1].folder, tokenizer, force=options.force_base)
    return Job(folder, base, adapters, known, merged_before, plan, tokenizer, _DTYPES[options.dtype])


def check_room(job: Job, out: Path) -> None:
    """Compare the disk's free space with the merged weights.

    Raises:
        RunFolderError: too little is free.
    """
    check_space(out, sum(spec.num_bytes for spec in job.plan.chain.specs(job.base, job.dtype).values()), "output_dir")


def _with_those_below(paths: Sequence[str], merged_before: Sequence[str]) -> list[SavedAdapter]:
    """The adapters, and before each one that was trained on top of others, those others where they still lie."""
    found: list[SavedAdapter] = []
    for path in paths:
        saved = adapter_files.read(path, is_optional=False)
        present = [*merged_before, *(each.sha256 for each in found)]
        for place in provenance.below(saved.folder, present):
            logger.warning("%s was trained on top of %s, which is merged first", path, place)
            found.append(adapter_files.read(str(place), is_optional=False))
        found.append(saved)
    return found


def _check_not_merged_yet(adapters: Sequence[SavedAdapter], merged_before: Sequence[str], folder: Path) -> None:
    seen: dict[str, Path] = {}
    for saved in adapters:
        if saved.sha256 in merged_before:
            raise AdapterError(
                "{folder}: {base} has this very adapter in it already; give the base as it was before that merge",
                folder=saved.folder,
                base=folder,
            )
        if saved.sha256 in seen:
            raise AdapterError(
                "--peft_path: {folder} is the same adapter as {seen}", folder=saved.folder, seen=seen[saved.sha256]
            )
        seen[saved.sha256] = saved.folder


def _check_not_continued(adapters: Sequence[SavedAdapter], base: str) -> None:
    """An adapter that continues another one is not put on top of it: what that one learned would be in twice."""
    for saved in adapters:
        held = provenance.continued(provenance.read(saved.folder), [other.sha256 for other in adapters])
        if not held:
            continue
        hashes = [one["sha256"] for one in held]
        double = next(other.folder for other in adapters if other.sha256 in hashes)
        left = [str(other.folder) for other in adapters if other.sha256 not in hashes]
        words = ["--model_name_or_path", base, "--peft_path", ",".join(left), "--output_dir", "merged"]
        raise AdapterError(
            "--peft_path: {folder} continues {double} and holds what that one learned; merge without {double}: yangtuo "
            "merge {words}",
            folder=saved.folder,
            double=double,
            words=shlex.join(words),
        )


def _tokenizer(folders: Sequence[Path], num_rows: int) -> Tokenizer | None:
    tokenizer = provenance.find_tokenizer(folders)
    if tokenizer is None:
        logger.warning("tokenizer: neither adapter nor base has one; the merged folder has none")
    elif tokenizer.num_tokens > num_rows:
        raise UsageError(
            "{folder}: its tokenizer has {num_tokens:,} tokens, the merged model {num_rows:,} rows",
            folder=tokenizer.folder,
            num_tokens=tokenizer.num_tokens,
            num_rows=num_rows,
        )
    elif is_tokenizer_folder(folders[-1]) and (more := open_tokenizer(folders[-1]).num_tokens) > tokenizer.num_tokens:
        logger.warning(
            "tokenizer: %s has %d tokens, the one in %s %d; the merged folder has the former, as in training",
            tokenizer.folder,
            tokenizer.num_tokens,
            folders[-1],
            more,
        )
    return tokenizer
