"""The sizes of a base with a LoRA on it, from its configuration alone: the model is made without any number in it."""

import contextlib
import copy
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from yangtuo.config.schema import LoraArguments
from yangtuo.errors import ModelError, one_line
from yangtuo.model import adapters, base
from yangtuo.model.architecture import OF_MODELS, auto_class

# Bytes of a weight in 4 bits: nf4 with a scale for each 64, of which each 256 have one in float32.
# Source: https://arxiv.org/abs/2305.14314, section 3.
_OF_4_BITS = 0.5 + 1 / 64 + 4 / (64 * 256)
_OF_8_BITS = 1.0


@dataclass(frozen=True)
class ModelSizes:
    """What there is to hold, in numbers and bytes.

    Attributes:
        frozen_bytes: of all frozen weights, as they are loaded.
        unused_bytes: the part of them that a trained copy stands in for.
        num_lora: trained numbers of LoRA.
        num_full: trained numbers of modules that are trained in full.
        largest_layer_bytes: frozen weights of the largest decoder layer.
        num_rows: of the vocabulary.
        trains_head: whether the head is trained in full.
        num_linear: frozen numbers of linear layers but the head, which may be quantised.
        of_linear: bytes of each.
        embedding_bytes: of a frozen embedding that is no head too, of which a run reads few rows.
    """

    frozen_bytes: int
    unused_bytes: int
    num_lora: int
    num_full: int
    largest_layer_bytes: int
    num_rows: int
    trains_head: bool
    num_linear: int
    of_linear: float
    embedding_bytes: int = 0

    @property
    def num_trained(self) -> int:
        """Of both kinds."""
        return self.num_lora + self.num_full

    def without_full(self) -> "ModelSizes":
        """With nothing trained in full."""
        return replace(self, num_full=0, unused_bytes=0, trains_head=False)

    def quantised(self, num_bits: int) -> "ModelSizes":
        """With linear layers in 4 or 8 bits."""
        size = _OF_4_BITS if num_bits == 4 else _OF_8_BITS
        frozen = self.frozen_bytes - round(self.num_linear * (self.of_linear - size))
        largest = round(self.largest_layer_bytes * size / self.of_linear)
        return replace(self, frozen_bytes=frozen, largest_layer_bytes=largest, of_linear=size)


@dataclass(frozen=True)
class Loading:
    """How the base is loaded.

    Attributes:
        width: bytes of a frozen weight that is not quantised.
        num_tokens: rows that the vocabulary has at least.
        num_bits: 4 or 8 where linear layers are quantised.
        trust_remote_code: as of transformers.
    """

    width: int
    num_tokens: int = 0
    num_bits: int | None = None
    trust_remote_code: bool = False


def sizes_of(
    config: PreTrainedConfig, lora: LoraArguments, loading: Loading, saved: LoraConfig | None = None
) -> ModelSizes:
    """Make the model on torch's meta device, where tensors have shapes and no memory, and count.

    Args:
        config: of the base.
        lora: the options of a new LoRA.
        loading: of the base.
        saved: the configuration of the adapter that is continued, in place of a new one's.

    Raises:
        ModelError: the model cannot be made from its configuration.
        AdapterError: the LoRA does not fit it.
    """
    num_tokens, config = loading.num_tokens, copy.deepcopy(config)  # a vocabulary that grows is written into it
    with torch.device("meta"), _silence():
        model = _made(config, trust_remote_code=loading.trust_remote_code)
        base.fit_vocabulary(model, num_tokens, are_trained=True)
        num_rows = int(model.get_input_embeddings().weight.shape[0])
        linear = _linear_weights(model, model.get_output_embeddings())
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings()
        is_apart = head is None or head.weight is not embedding
        if saved is not None:
            peft: Any = get_peft_model(model, saved)
        else:
            new_tokens = range(config.get_text_config().vocab_size, num_tokens) if lora.train_new_tokens_only else ()
            # However the matrices begin, they have the same sizes; some begin from the base's numbers.
            peft = adapters.attach_new(model, replace(lora, init_lora_weights="true"), new_tokens).model
    parameters = list(peft.named_parameters())
    trained = {name: p.numel() for name, p in parameters if p.requires_grad}
    num_lora = sum(count for name, count in trained.items() if ".lora_" in name)
    frozen = {name: p.numel() * loading.width for name, p in parameters if not p.requires_grad}
    of_layers: Counter[str] = Counter()
    for name, size in frozen.items():
        of_layers[_layer_of(name)] += size
    of_layers.pop("", None)
    sizes = ModelSizes(
        frozen_bytes=sum(frozen.values()),
        unused_bytes=sum(size for name, size in frozen.items() if ".original_module." in name),
        num_lora=num_lora,
        num_full=sum(trained.values()) - num_lora,
        largest_layer_bytes=max(of_layers.values(), default=0),
        num_rows=num_rows,
        trains_head=any("lm_head" in name and ".lora_" not in name for name in trained),
        num_linear=sum(p.numel() for name, p in parameters if id(p) in linear),
        of_linear=float(loading.width),
        embedding_bytes=sum(
            frozen[name] for name, p in parameters if p is embedding and is_apart and ".original_module." not in name
        ),
    )
    return sizes.quantised(loading.num_bits) if loading.num_bits else sizes


def _made(config: PreTrainedConfig, *, trust_remote_code: bool) -> PreTrainedModel:
    try:
        model: PreTrainedModel = auto_class(config).from_config(
            config, trust_remote_code=trust_remote_code, dtype=torch.bfloat16
        )
    except OF_MODELS as error:
        raise ModelError(
            "the model cannot be made from its config.json: {error}", error=one_line(error, 160)
        ) from error
    return model


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """What making a model has to say is said when the run makes its own."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)


def _linear_weights(model: nn.Module, head: nn.Module | None) -> set[int]:
    """Identities of the weights that bitsandbytes quantises: of linear layers but the head."""

    def found() -> Iterator[int]:
        for module in model.modules():
            if isinstance(module, nn.Linear) and module is not head:
                yield id(module.weight)

    return set(found())


def _layer_of(name: str) -> str:
    before, found, after = name.partition(".layers.")
    return f"{before}.{after.split('.')[0]}" if found else ""
