"""Whether an adapter can be merged at all: its kind, and its rows of the vocabulary against the model's."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from yangtuo.data.tokenizer import is_tokenizer_folder, open_tokenizer
from yangtuo.errors import AdapterError
from yangtuo.i18n import Listed, Message
from yangtuo.merging.edits import WeightEdits, is_finite
from yangtuo.model.adapter_files import SavedAdapter
from yangtuo.model.adapter_names import PREFIX

logger = logging.getLogger(__name__)

_LLAMA_ROWS, _CHINESE_LLAMA_ROWS, _CHINESE_ALPACA_ROWS = 32_000, 49_953, 49_954  # as published in 2023
_MOST_NEW_ROWS = 1024  # a tokenizer that was given some control tokens, not another tokenizer
_REFUSED = (  # kinds of LoRA whose weight is no W + scale * B A, or that change the base when they start
    *("use_qalora", "alora_invocation_tokens", "arrow_config", "use_bdlora", "kasa_config", "velora_config"),
    *("monteclora_config", "layer_replication", "megatron_config"),
)


@dataclass(frozen=True)
class Allowed:
    """What the user has allowed: far more rows in an adapter than in the base; tensors missing or left over."""

    new_vocabulary: bool = False
    partial: bool = False


def rows_after(saved: SavedAdapter, chain: WeightEdits, allowed: Allowed) -> int:
    """Rows of the vocabulary once this adapter is in.

    Raises:
        AdapterError: the adapter has fewer rows than the model that it meets, or far more; both numbers are named.
    """
    given = {
        name: len(saved.tensors[PREFIX + name])
        for name in (chain.embedding, chain.head)
        if PREFIX + name in saved.tensors
    }
    if len(set(given.values())) > 1:
        raise AdapterError(
            "{folder}: embedding and head differ in their rows: {listed}", folder=saved.folder, listed=_listed(given)
        )
    tokens = open_tokenizer(saved.folder).num_tokens if is_tokenizer_folder(saved.folder) else 0
    num_rows, here = next(iter(given.values()), max(chain.num_rows, tokens)), chain.num_rows
    what = (
        Message("has {num_rows:,} rows in {next}", num_rows=num_rows, next=next(iter(given)).split(".")[-2])
        if given
        else Message("has {num_rows:,} tokens", num_rows=num_rows)
    )
    if num_rows < tokens:
        raise AdapterError(
            "{folder}: {what}, its tokenizer {tokens:,} tokens", folder=saved.folder, what=what, tokens=tokens
        )
    if num_rows < here:
        order = (num_rows, here) == (_CHINESE_LLAMA_ROWS, _CHINESE_ALPACA_ROWS)
        hint = (
            Message("the order looks wrong: LLaMA-Plus (49,953) comes first, Alpaca-Plus (49,954) after it")
            if order
            else Message("it was trained on another base, or its turn is earlier")
        )
        raise AdapterError(
            "{folder}: {what}, the model that it meets {here:,}; {hint}",
            folder=saved.folder,
            what=what,
            here=here,
            hint=hint,
        )
    is_known = (here, num_rows) == (_LLAMA_ROWS, _CHINESE_LLAMA_ROWS)
    if num_rows - here > _MOST_NEW_ROWS and not is_known and not allowed.new_vocabulary:
        told = [Message("{folder}: the adapter {what}, the base {here:,}", folder=saved.folder, what=what, here=here)]
        if num_rows == _CHINESE_ALPACA_ROWS:
            told.append(
                Message("is its base Chinese-LLaMA? Alpaca-Plus needs LLaMA-Plus before it: --peft_path LLAMA,ALPACA")
            )
        told.append(
            Message(
                "give the base that it was trained on (if that is this very base, and the adapter's tokenizer is "
                "larger, see yangtuo merge --help)"
            )
        )
        raise AdapterError(Listed(told, "; "))
    if num_rows > here:
        logger.warning("vocabulary: %d -> %d rows with %s", here, num_rows, saved.folder)
    return num_rows


def _listed(values: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {value:,}" for name, value in values.items())


def check_kind(saved: SavedAdapter) -> None:
    """Refuse kinds of LoRA that this arithmetic does not cover, and broken values.

    Raises:
        AdapterError: which kind, and the way out where there is one.
    """
    config = saved.config
    refused = [name for name in _REFUSED if getattr(config, name, None)]
    if refused:
        raise AdapterError(
            "{folder}: an adapter with {refused} cannot be merged", folder=saved.folder, refused=", ".join(refused)
        )
    broken = [key for key, value in saved.tensors.items() if not is_finite(value)]
    if broken:
        raise AdapterError("{folder}: not finite: {broken}", folder=saved.folder, broken=", ".join(broken[:4]))
