"""The frozen base model: its dtype, its weights, and how many rows its vocabulary has."""

import copy
import importlib.util
import logging
import math
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel

from yangtuo.config.choices import ATTENTIONS
from yangtuo.config.schema import ModelArguments
from yangtuo.errors import MissingDependencyError, ModelError, OutOfMemoryError, UsageError, is_out_of_memory, one_line
from yangtuo.i18n import Message
from yangtuo.installing import pip_install
from yangtuo.model.architecture import auto_class, beside_and_inside, read_config
from yangtuo.model.dtypes import name_of
from yangtuo.model.processor import Hardware, Precision, computed_in
from yangtuo.model.sharding import gathered, shape_of
from yangtuo.model.weight_names import not_used

logger = logging.getLogger(__name__)


def check_positions(config: PreTrainedConfig, max_seq_length: int) -> None:
    """Refuse rotary scalings that change with the length of what is computed together.

    Raises:
        ModelError: dynamic or longrope scaling, with rows longer than the model was made for: the positions of a short
            row would depend on whether a long one is its neighbour.
    """
    text = config.get_text_config()
    given = getattr(text, "rope_parameters", None) or {}
    for rope in (given, *(value for value in given.values() if isinstance(value, dict))):  # one for each kind of layer
        kind = rope.get("rope_type")
        original = rope.get("original_max_position_embeddings") or getattr(text, "max_position_embeddings", None)
        if kind in ("dynamic", "longrope") and original and max_seq_length > original:
            raise ModelError(
                "{kind} rotary scaling is not supported beyond {original} tokens, since a row would depend on its "
                "neighbours; give --max_seq_length {original} or less (now {max_seq_length})",
                kind=kind,
                original=original,
                max_seq_length=max_seq_length,
            )


def check_attention(config: PreTrainedConfig, arguments: ModelArguments, hardware: Hardware) -> None:
    """Refuse an attention code that is not installed, or cannot train this model here.

    Raises:
        UsageError: why, and which ones can.
    """
    name = arguments.attn_implementation
    why = _why_not(config, arguments, hardware, name) if name else ""
    if why:
        able = [each for each in ATTENTIONS if not _why_not(config, arguments, hardware, each)]
        raise UsageError(
            "--attn_implementation {name}: {why}; this model can be trained here with {able}",
            name=name,
            why=why,
            able=", ".join(able),
        )


def _why_not(config: PreTrainedConfig, arguments: ModelArguments, hardware: Hardware, name: str) -> str:
    """Why an attention code cannot be used, "" where it can."""
    if name == "flex_attention" and hardware.device == "cpu":
        return Message("torch has no gradient of it on a CPU")
    trust = arguments.trust_remote_code
    try:
        with torch.device("meta"):
            auto_class(config).from_config(copy.deepcopy(config), attn_implementation=name, trust_remote_code=trust)
    except (ValueError, ImportError, OSError) as error:
        return one_line(error, 200).rstrip(".")
    return ""


def num_bits(arguments: ModelArguments) -> int | None:
    """Bits of a frozen weight where it is quantised, else None.

    Raises:
        UsageError: both options at once.
        MissingDependencyError: bitsandbytes is not installed.
    """
    if arguments.load_in_4bit and arguments.load_in_8bit:
        raise UsageError("--load_in_4bit and --load_in_8bit: give one of them")
    bits = 4 if arguments.load_in_4bit else 8 if arguments.load_in_8bit else None
    if bits and importlib.util.find_spec("bitsandbytes") is None:
        raise MissingDependencyError(
            "--load_in_{bits}bit: bitsandbytes is not installed; {pip_install}, or leave the option out",
            bits=bits,
            pip_install=pip_install("qlora"),
        )
    return bits


def _quantisation(arguments: ModelArguments, precision: Precision) -> dict[str, Any]:
    """What `from_pretrained` is told beside the rest.

    Source: https://arxiv.org/abs/2305.14314 (nf4, double quantisation), section 3.
    """
    bits = num_bits(arguments)
    if bits is None:
        return {}
    config = BitsAndBytesConfig(
        load_in_4bit=bits == 4,
        load_in_8bit=bits == 8,
        llm_int8_threshold=0.0,  # else a row's outlier changes how the rows beside it are computed
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=_device_type() in _DOUBLY_QUANTISED,
        bnb_4bit_compute_dtype=computed_in(precision),
    )
    return {"quantization_config": config}


_DOUBLY_QUANTISED = ("cuda", "cpu", "xpu")  # bitsandbytes 0.50 has no kernels for it elsewhere


def _device_type() -> str:
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return "cpu" if found is None else found.type


def _place(device: torch.device | None, *, is_quantised: bool) -> dict[str, Any]:
    """Where `from_pretrained` puts the weights; one that is quantised is made on its device."""
    if device is None and is_quantised:
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        device = torch.device("cpu") if found is None else found
    if device is None or (device.type == "cpu" and not is_quantised):
        return {}
    needs_index = device.type != "cpu" and device.index is None
    index = torch.accelerator.current_device_index() if needs_index else device.index
    return {"device_map": {"": device.type if index is None else f"{device.type}:{index}"}}


def load(
    folder: Path, precision: Precision, arguments: ModelArguments, device: torch.device | None = None
) -> PreTrainedModel:
    """The base model with all of its weights.

    Args:
        folder: of the base.
        precision: dtype of the weights.
        arguments: how to load.
        device: where the weights go, straight from the files, so that main memory never holds them; None for main
            memory (an engine divides them among processes), a quantised base's for the device of this process.

    Raises:
        ModelError: weights that cannot be read, that are missing (they would be random), or that are not used.
    """
    config = read_config(folder, trust_remote_code=arguments.trust_remote_code)
    quantisation = _quantisation(arguments, precision)
    try:
        model, report = auto_class(config).from_pretrained(
            folder,
            dtype=precision.weights,
            attn_implementation=arguments.attn_implementation,
            trust_remote_code=arguments.trust_remote_code,
            local_files_only=True,
            output_loading_info=True,
            **quantisation,
            **_place(device, is_quantised=bool(quantisation)),
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError, UnpicklingError) as error:
        if is_out_of_memory(error):
            files = [path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin")]
            needed = sum(path.stat().st_size for path in files) / 2**30
            raise OutOfMemoryError(
                "{folder}: the device has not room for its weights, {needed:.1f} GiB as they are stored ({error}); "
                "--load_in_4bit, a smaller model, or --use_cpu",
                folder=folder,
                needed=needed,
                error=one_line(error, 160),
            ) from error
        raise ModelError(
            "{folder}: the weights cannot be loaded: {error}", folder=folder, error=one_line(error, 300)
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        shown = ", ".join(missing[:4]) + (", ..." if len(missing) > 4 else "")
        raise ModelError(
            "{folder}: {num_missing} weights are not in the files and would be random: {shown}",
            folder=folder,
            num_missing=len(missing),
            shown=shown,
        )
    beside, inside = beside_and_inside(report["unexpected_keys"], model)
    if inside:
        raise not_used(folder, inside)
    if beside:
        shown = ", ".join(beside[:3]) + (", ..." if len(beside) > 3 else "")
        logger.warning("base: %d tensors lie beside the model and are not trained with it: %s", len(beside), shown)
    for module in model.modules():
        # On a CPU with AVX-512 for bfloat16, bitsandbytes 0.50 turns 4-bit weights into another layout at the first
        # evaluation, rounds their scales, and knows no gradient from there on, without a word.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def fit_vocabulary(model: PreTrainedModel, num_tokens: int, *, are_trained: bool) -> int:
    """Give the embedding and the head a row for every token, as the 2023 script did; returns the rows added.

    New rows are the mean of the old ones. Spare rows (a vocabulary padded to a round number, as Qwen's is) stay:
    without them, weights trained in full would not fit the base any more. `are_trained` is only for what is said.
    """
    embeddings = model.get_input_embeddings()
    num_rows = shape_of(embeddings.weight)[0]
    if num_rows >= num_tokens:
        if num_rows > num_tokens:
            logger.info("vocabulary: %d rows for %d tokens; the spare rows stay as they are", num_rows, num_tokens)
        return 0
    model.resize_token_embeddings(num_tokens, mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            if layer is not None:
                with gathered([layer.weight], writes=True):
                    layer.weight[num_rows:] = layer.weight[:num_rows].float().mean(0).to(layer.weight.dtype)
    logger.warning(
        "vocabulary: rows added for the tokenizer, %d -> %d, each the mean of the old ones", num_rows, num_tokens
    )
    if not are_trained:
        logger.warning(
            "vocabulary: the %d new rows are not trained; --modules_to_save embed_tokens,lm_head trains "
            "all rows, --train_new_tokens_only these",
            num_tokens - num_rows,
        )
    return num_tokens - num_rows


def describe(config: PreTrainedConfig, model: Any, precision: Precision, arguments: ModelArguments) -> str:
    """One line about the base, for the screen."""
    total = sum(math.prod(shape_of(p)) for p in model.parameters())
    bits, width, compute = num_bits(arguments), name_of(precision.weights), name_of(computed_in(precision))
    kind = Message("4 bits (nf4)") if bits == 4 else Message("{bits} bits", bits=bits) if bits else width
    if bits or compute != width:
        kind = Message("{kind}, computed in {compute}", kind=kind, compute=compute)
    return Message(
        "base: {model_type}, {millions:,.1f} M parameters, frozen in {kind}",
        model_type=config.model_type,
        millions=total / 1e6,
        kind=kind,
    )
