"""What a model's config.json and tensor names are called in GGUF, and which tensors go in how.

llama.cpp's graph of an architecture is fixed: what it does not compute (another activation, another rotary scaling) it
would silently leave out. So whatever is outside of it is refused here.

Source: llama.cpp's src/models/{llama,qwen2,qwen3}.cpp of 2026 (as in llama-cpp-python 0.3.36); names of keys and
tensors are the `gguf` package's.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gguf import (
    GGML_QUANT_SIZES,
    GGML_QUANT_VERSION,
    MODEL_ARCH,
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    Keys,
    LlamaFileType,
    get_tensor_name_map,
)
from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from yangtuo.errors import ModelError
from yangtuo.exporting.gguf.vocabulary import Value
from yangtuo.i18n import Listed, Message
from yangtuo.merging.edits import WeightEdits
from yangtuo.model.stored_weights import StoredWeights

logger = logging.getLogger(__name__)

ARCHITECTURES = {  # config.json's model_type -> llama.cpp's
    "llama": MODEL_ARCH.LLAMA,
    "mistral": MODEL_ARCH.LLAMA,
    "qwen2": MODEL_ARCH.QWEN2,
    "qwen3": MODEL_ARCH.QWEN3,
}
KINDS = {  # of `exporting.kinds.WRITTEN`
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}


@dataclass(frozen=True)
class Tensor:
    """A tensor of the GGUF file.

    Attributes:
        name: in GGUF.
        source: the tensor of the folder that it comes from; "" where `given` is the value.
        shape: as torch has it, the last axis contiguous; GGUF writes it the other way round.
        type: how it is stored.
        num_heads: its rows belong to so many heads whose halves become pairs, see `paired`; 0: they stay as they are.
        given: a value that is in no file of the folder.
    """

    name: str
    source: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    num_heads: int = 0
    given: torch.Tensor | None = None

    @property
    def num_bytes(self) -> int:
        """Its size in the file, without padding."""
        block_values, block_bytes = GGML_QUANT_SIZES[self.type]
        return int(torch.Size(self.shape).numel() // block_values * block_bytes)

    def read(self, weights: StoredWeights) -> torch.Tensor:
        """Its value in the order of GGUF, in the dtype of the folder."""
        if self.given is not None:
            return self.given
        value = weights.get(self.source)
        return paired(value, self.num_heads) if self.num_heads else value


def paired(value: torch.Tensor, num_heads: int) -> torch.Tensor:
    """[heads * (2 * half), ...] -> [heads * (half * 2), ...]: entry i of a head beside entry half + i.

    Rotary embedding turns such pairs. Hugging Face's LLaMA keeps the pairs half a head apart, llama.cpp's side by side.
    """
    shape = value.shape
    return value.reshape(num_heads, 2, shape[0] // num_heads // 2, *shape[1:]).transpose(1, 2).reshape(shape)


def architecture(folder: Path, config: PreTrainedConfig) -> MODEL_ARCH:
    """The architecture of llama.cpp that computes this model.

    Raises:
        ModelError: there is none among the supported ones, or the model does something that it does not.
    """
    if config.model_type not in ARCHITECTURES:
        raise ModelError(
            "{folder}: model_type {model_type!r} cannot be written as GGUF here; supported: {architectures}; for "
            "others use llama.cpp's convert_hf_to_gguf.py",
            folder=folder,
            model_type=config.model_type,
            architectures=", ".join(ARCHITECTURES),
        )
    rope = config.rope_parameters
    kind = rope.get("rope_type", "default")
    reasons = {
        Message("quantised weights (merge into the 16-bit model first)"): bool(
            getattr(config, "quantization_config", None)
        ),
        Message("activation {hidden_act!r} (only silu)", hidden_act=config.hidden_act): config.hidden_act != "silu",
        Message("rotary scaling {kind!r} (only default, linear, llama3)", kind=kind): kind
        not in ("default", "linear", "llama3"),
        Message("rotary embedding of a part of each head"): rope.get("partial_rotary_factor", 1) != 1,
        Message("biases in Qwen3's attention"): config.model_type == "qwen3" and config.attention_bias,
        Message("heads that do not add up to the hidden size"): config.model_type == "qwen2"
        and _head_width(config) * config.num_attention_heads != config.hidden_size,
    }
    if wrong := [reason for reason, holds in reasons.items() if holds]:
        raise ModelError(
            "{folder}: cannot be written as GGUF: {wrong}; serve the folder itself",
            folder=folder,
            wrong=Listed(wrong, "; "),
        )
    return ARCHITECTURES[config.model_type]


def fields(folder: Path, config: PreTrainedConfig, kind: str, num_rows: int) -> dict[str, Value]:
    """The keys that describe the model; `general.architecture` is the writer's.

    Args:
        folder: whose name becomes the model's.
        config: one that `architecture` accepts.
        kind: one of KINDS.
        num_rows: rows of the embedding.
    """
    arch = MODEL_ARCH_NAMES[ARCHITECTURES[config.model_type]]
    llm, attention, rope = Keys.LLM, Keys.Attention, config.rope_parameters
    found: dict[str, Value] = {
        Keys.General.TYPE: "model",
        Keys.General.NAME: folder.resolve().name,
        Keys.General.FILE_TYPE: int(KINDS[kind][1]),
        Keys.General.QUANTIZATION_VERSION: GGML_QUANT_VERSION,
    }
    of_architecture: dict[str, Value] = {
        llm.VOCAB_SIZE: num_rows,
        llm.CONTEXT_LENGTH: _context_length(config),
        llm.EMBEDDING_LENGTH: config.hidden_size,
        llm.BLOCK_COUNT: config.num_hidden_layers,
        llm.FEED_FORWARD_LENGTH: config.intermediate_size,
        attention.HEAD_COUNT: config.num_attention_heads,
        attention.HEAD_COUNT_KV: config.num_key_value_heads,
        attention.KEY_LENGTH: _head_width(config),
        attention.VALUE_LENGTH: _head_width(config),
        attention.LAYERNORM_RMS_EPS: float(config.rms_norm_eps),
        Keys.Rope.DIMENSION_COUNT: _head_width(config),
        Keys.Rope.FREQ_BASE: float(rope["rope_theta"]),
    }
    if rope.get("rope_type") == "linear":
        of_architecture[Keys.Rope.SCALING_TYPE] = "linear"
        of_architecture[Keys.Rope.SCALING_FACTOR] = float(rope["factor"])
    return found | {key.format(arch=arch): value for key, value in of_architecture.items()}


def _head_width(config: PreTrainedConfig) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _context_length(config: PreTrainedConfig) -> int:
    window = getattr(config, "sliding_window", None)
    length = int(config.max_position_embeddings)
    if window and window < length:
        logger.warning(
            "context length: %d in the GGUF file, the width of the model's attention window, instead of %d: llama.cpp "
            "would let this model look further back than it has learned",
            window,
            length,
        )
        return int(window)
    return length


def tensors(
    folder: Path, weights: StoredWeights, chain: WeightEdits, config: PreTrainedConfig, kind: str
) -> list[Tensor]:
    """All tensors of the GGUF file, in the order of the folder's files.

    Args:
        folder: for messages.
        weights: its files.
        chain: what `merge.plan.start` says about them: a tied head is left out, llama.cpp takes the embedding.
        config: one that `architecture` accepts.
        kind: one of KINDS.

    Raises:
        ModelError: a tensor that GGUF has no name for.
    """
    arch = architecture(folder, config)
    names = get_tensor_name_map(arch, config.num_hidden_layers)
    heads = {}
    if arch is MODEL_ARCH.LLAMA:
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    found = []
    for source in chain.sources:
        if source.endswith("rotary_emb.inv_freq"):  # a buffer, in folders of 2023; it follows from config.json
            continue
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ModelError(
                "{folder}: GGUF has no name for {source} in a {model_type} model",
                folder=folder,
                source=source,
                model_type=config.model_type,
            )
        shape = weights.specs[source].shape
        found.append(Tensor(name, source, shape, _type(shape, kind), heads.get(source.split(".")[-2], 0)))
    if config.rope_parameters.get("rope_type") == "llama3":
        divisors = _rope_divisors(config)
        found.append(Tensor("rope_freqs.weight", "", tuple(divisors.shape), KINDS["f32"][0], given=divisors))
    return found


def _type(shape: tuple[int, ...], kind: str) -> GGMLQuantizationType:
    """As llama.cpp has it: norms and biases in float32; what does not divide into blocks, in float16."""
    wanted = KINDS[kind][0]
    if len(shape) < 2:
        return GGMLQuantizationType.F32
    return wanted if shape[-1] % GGML_QUANT_SIZES[wanted][0] == 0 else GGMLQuantizationType.F16


def _rope_divisors(config: PreTrainedConfig) -> torch.Tensor:
    """[head width / 2]: by what llama.cpp divides the frequencies of the rotary embedding; transformers decides."""
    scale: Mapping[str, Any] = ROPE_INIT_FUNCTIONS
    scaled, _ = scale["llama3"](config, torch.device("cpu"))
    width = _head_width(config)
    exponents = torch.arange(0, width, 2, dtype=torch.int64).float() / width
    plain = 1.0 / config.rope_parameters["rope_theta"] ** exponents
    divisors: torch.Tensor = plain / scaled.float()
    return divisors
