"""Adapter folders as they lie on disk: of today's PEFT, or of 2023's."""

import logging
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file

from yangtuo.errors import AdapterError, ProofError, one_line
from yangtuo.i18n import Message, shortened
from yangtuo.model.adapter_config import read_config
from yangtuo.model.adapter_folder import check_adapter
from yangtuo.model.adapter_names import as_used
from yangtuo.model.provenance import OLD_WEIGHTS_FILE, WEIGHTS_FILE, sha256_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SavedAdapter:
    """An adapter folder as read from disk: PEFT's configuration, and the tensors by the names of `adapter_names`."""

    folder: Path
    config: LoraConfig
    tensors: Mapping[str, torch.Tensor]

    @cached_property
    def sha256(self) -> str:
        """Of its weights file, by which it is known."""
        return sha256_of(self.folder)

    @property
    def holds_more_than_lora(self) -> bool:
        """Whether rows of the vocabulary, or whole modules, are in it."""
        return any(".lora_" not in key for key in self.tensors)


def read(peft_path: str, *, is_optional: bool = True) -> SavedAdapter:
    """Read an adapter folder, of today's PEFT or of 2023's (`adapter_model.bin`, keys since dropped).

    `is_optional` where a run could go without, which the message then says.

    Raises:
        AdapterError: no such folder, a file missing or broken, or not a plain LoRA.
    """
    folder = check_adapter(peft_path, is_optional=is_optional)
    return SavedAdapter(folder, read_config(folder), as_used(_read_tensors(folder)))


Shapes = Mapping[str, Sequence[int]]


def check_fit(saved: SavedAdapter, found: Shapes, needed: Shapes, others: Shapes, *, is_partial: bool) -> set[str]:
    """Compare an adapter's tensors with what a base has a place for.

    Args:
        saved: the adapter, for messages.
        found: shapes of its tensors.
        needed: shapes of what has to be in it.
        others: shapes of what may be in it.
        is_partial: `--allow_partial_adapter`: half of a low-rank pair may be missing, which then does nothing, and
            LoRA of parts that the base does not have at all (a vision tower) may be left over.

    Returns:
        What is missing or left over, where that is allowed.

    Raises:
        AdapterError: all that does not fit is named.
    """
    missing, left_over = needed.keys() - found.keys(), found.keys() - needed.keys() - others.keys()
    odd = {key: Message("{key} is missing", key=key) for key in sorted(missing)}
    odd |= {key: Message("{key} belongs to nothing in this base", key=key) for key in sorted(left_over)}
    shapes = [
        Message(
            "{key} has shape {found}, this base needs {wanted}", key=key, found=list(found[key]), wanted=list(wanted)
        )
        for key, wanted in sorted({**others, **needed}.items())
        if key in found and tuple(found[key]) != tuple(wanted)
    ]
    title = Message("{folder} does not fit this base and tokenizer", folder=saved.folder)
    if is_partial:
        kinds = {_numberless(key) for key in needed}
        fits_nothing = not needed.keys() & found.keys()
        decides = {key for key in odd if not _is_low_rank(key) or (key in left_over and _numberless(key) in kinds)}
        reasons = [Message("{odd}, and decides the result", odd=odd[key]) for key in odd if key in decides]
        problems = [*([Message("none of its tensors fits")] if fits_nothing else reasons), *shapes]
    else:
        problems = [*odd.values(), *shapes]
    if problems:
        raise AdapterError.of_problems(
            Message(
                "{title}; give the base that it was trained on, with its tokenizer, and the whole adapter", title=title
            ),
            problems,
            shown=6,
        )
    if odd:
        told = shortened(list(odd.values()), 6)
        logger.warning("%s; taken nevertheless (--allow_partial_adapter): %s", title, told)
    return set(odd)


def _numberless(key: str) -> str:
    return re.sub(r"\d+", "#", key)


def _is_low_rank(key: str) -> bool:
    """Whether a tensor is one of a low-rank pair: DoRA's lengths and whole modules have nothing in their place."""
    return re.search(r"\.lora_(embedding_)?[AB](\.|$)", key) is not None


def check_written(folder: Path, expected: Mapping[str, torch.Tensor]) -> None:
    """Reopen an adapter that was just written, and compare it with what should be in it, bit for bit.

    Raises:
        ProofError: a tensor is missing, left over, not finite, or not as it was in memory; all of them are named.
    """
    found = load_file(folder / WEIGHTS_FILE)
    problems = [Message("{key} is missing", key=key) for key in sorted(expected.keys() - found.keys())]
    problems += [Message("{key} was not to be saved", key=key) for key in sorted(found.keys() - expected.keys())]
    for key in sorted(expected.keys() & found.keys()):
        wanted = expected[key].detach().cpu()
        if found[key].shape != wanted.shape:
            problems.append(
                Message(
                    "{key} has shape {shape}, in memory {wanted}",
                    key=key,
                    shape=list(found[key].shape),
                    wanted=list(wanted.shape),
                )
            )
        elif not torch.isfinite(found[key]).all():
            problems.append(Message("{key} has values that are not finite", key=key))
        elif not torch.equal(found[key], wanted):
            problems.append(Message("{key} has other values than in memory", key=key))
    num_bytes, size = sum(value.nbytes for value in expected.values()), (folder / WEIGHTS_FILE).stat().st_size
    with (folder / WEIGHTS_FILE).open("rb") as file:
        predicted = 8 + int.from_bytes(file.read(8), "little") + num_bytes
    if size != predicted:
        problems.append(
            Message("the file has {size:,} bytes, the tensors make {predicted:,}", size=size, predicted=predicted)
        )
    if not expected:
        problems.append(Message("no tensor was to be saved"))
    if problems:
        told = shortened(problems, 6)
        raise ProofError("{folder}: the adapter on disk is not the one in memory: {told}", folder=folder, told=told)


def _read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    new, old = folder / WEIGHTS_FILE, folder / OLD_WEIGHTS_FILE
    try:
        if new.is_file():
            return load_file(new)
        if old.is_file():
            tensors = torch.load(old, map_location="cpu", weights_only=True)
            return {str(key): value for key, value in tensors.items()}
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        file = new if new.is_file() else old
        raise AdapterError(
            "{file}: cannot be read, perhaps cut short: {error}", file=file, error=one_line(error, 160)
        ) from error
    except pickle.UnpicklingError as error:  # what torch.load raises for a file with code in it
        raise AdapterError(
            "{old}: refused, it is no plain file of tensors: {error}",
            old=old,
            error=str(error).splitlines()[0][:160],
        ) from error
    raise AdapterError(
        "{folder}: neither {weights_file} nor {old_weights_file} in that folder",
        folder=folder,
        weights_file=WEIGHTS_FILE,
        old_weights_file=OLD_WEIGHTS_FILE,
    )
