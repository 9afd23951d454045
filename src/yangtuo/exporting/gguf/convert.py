"""A plain model folder as one GGUF file, for llama.cpp and what is built on it (Ollama, LM Studio).

Written tensor by tensor behind a header that is known beforehand, read again and compared, and only then given its
name. What goes in is decided in `gguf_model` and `gguf_vocabulary`, the comparison is in `gguf_proof`.
"""

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFValueType, GGUFWriter, Keys
from gguf.quants import quantize
from tqdm import tqdm

from yangtuo import output
from yangtuo.data.jinja_source import render_function
from yangtuo.data.templates import TemplateFault
from yangtuo.data.tokenizer import Tokenizer, open_tokenizer
from yangtuo.errors import ModelError, UsageError, WriteError
from yangtuo.exporting.gguf import model, vocabulary
from yangtuo.exporting.gguf.model import KINDS, Tensor
from yangtuo.exporting.gguf.verify import prove
from yangtuo.exporting.gguf.vocabulary import Value
from yangtuo.merging import plan
from yangtuo.merging.edits import is_finite
from yangtuo.model.stored_weights import StoredWeights, open_stored
from yangtuo.output import check_absent, check_space, new_file

logger = logging.getLogger(__name__)

_LARGEST = float(torch.finfo(torch.float16).max)  # of a float16, and of the step of a block of q8_0
_Q8_MOST = 127
_VALUE_TYPES = {str: GGUFValueType.STRING, bool: GGUFValueType.BOOL, int: GGUFValueType.UINT32} | {
    float: GGUFValueType.FLOAT32,
    list: GGUFValueType.ARRAY,
}


@dataclass(frozen=True)
class Written:
    """A GGUF file that was read again and found right.

    Attributes:
        path: the file.
        architecture: llama.cpp's name for it.
        num_tensors: how many it holds.
        num_tokens: length of its vocabulary, the rows of the embedding.
        num_bytes: its size.
        max_relative_error: the largest distance of a value from the folder's, as a part of the largest value of its
            tensor; 0 for f32 unless the folder has float64.
    """

    path: Path
    architecture: str
    num_tensors: int
    num_tokens: int
    num_bytes: int
    max_relative_error: float


def write(folder: Path, out: Path, kind: str, chat_template: str | None, *, option: str = "out") -> Written:
    """Write a model folder as GGUF, and prove it.

    Memory is that of the largest tensor in float32, and its copy in the file's type.

    Args:
        folder: config.json, weights and tokenizer, of one of `gguf.model.ARCHITECTURES`; no adapter.
        out: the file to be made; must not exist.
        kind: "f32", "f16" or "q8_0", of the matrices; norms and biases are always float32.
        chat_template: jinja text that goes into the file; None for none.
        option: which option gave `out`, for messages.

    Raises:
        UsageError: an unknown kind.
        ModelError: a model that llama.cpp would compute otherwise, or values that do not fit the kind.
        TokenizerError: a tokenizer that llama.cpp would apply otherwise.
        RunFolderError: `out` is there already, is being written, or does not fit on the disk.
        RunFailure: writing failed, or the proof; then the file is called `OUT.failed-proof`.
    """
    if kind not in KINDS:
        raise UsageError("{kind!r} is no kind of GGUF; choose from {kinds}", kind=kind, kinds=", ".join(KINDS))
    check_absent(out, option)
    weights = open_stored(folder)
    config = weights.config
    tokenizer, architecture = open_tokenizer(folder), MODEL_ARCH_NAMES[model.architecture(folder, config)]
    chain = plan.start(weights)
    tensors = model.tensors(folder, weights, chain, config, kind)
    fields = model.fields(folder, config, kind, chain.num_rows)
    fields |= vocabulary.fields(tokenizer, chain.num_rows)
    if chat_template:
        fields[Keys.Tokenizer.CHAT_TEMPLATE] = chat_template
        fields[Keys.Tokenizer.ADD_BOS] = _adds_bos(chat_template, tokenizer)
    check_space(out, sum(tensor.num_bytes for tensor in tensors), option)

    with new_file(out, option) as draft:
        started = time.monotonic()
        _write(draft, architecture, fields, tensors, weights)
        num_bytes = draft.stat().st_size
        logger.info("written: %.2f GB in %.0f s", num_bytes / 1e9, time.monotonic() - started)
        error = _prove(draft, {Keys.General.ARCHITECTURE: architecture, **fields}, tensors, weights)
    return Written(out, architecture, len(tensors), chain.num_rows, num_bytes, error)


def _adds_bos(chat_template: str, tokenizer: Tokenizer) -> bool:
    """Whether prompts of training have the BOS of the tokenizer's rule: those of a template without one have none."""
    if tokenizer.bos_id is None:
        return False
    bos = tokenizer.name_of(tokenizer.bos_id) or ""
    try:
        render = render_function(chat_template, tokenizer.names)
        return render([{"role": "user", "content": "q"}], add_generation_prompt=True).startswith(bos)
    except TemplateFault:  # it wants a system prompt, say
        return True


def _write(
    draft: Path, architecture: str, fields: Mapping[str, Value], tensors: Sequence[Tensor], weights: StoredWeights
) -> None:
    logging.getLogger("gguf").setLevel(logging.WARNING)  # it tells about byte order and names at INFO
    writer = GGUFWriter(draft, architecture)
    for key, value in fields.items():
        writer.add_key_value(key, value, _VALUE_TYPES[type(value)])
    for tensor in tensors:
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.num_bytes, tensor.type)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tqdm(tensors, "writing", unit="tensor", leave=False, disable=None, file=sys.stderr):
            writer.write_tensor_data(_encoded(tensor, tensor.read(weights)))
        writer.close()
        output.flush(draft, from_cache=True)  # the proof reads the disk
    except OSError as error:
        raise WriteError("{draft}: cannot be written: {reason}", draft=draft, reason=output.reason(error)) from error
    finally:
        for file in writer.fout or ():
            file.close()


def _encoded(tensor: Tensor, value: torch.Tensor) -> Any:
    """The array that the file gets.

    Raises:
        ModelError: a value is not finite, or does not fit.
    """
    if not is_finite(value):
        raise ModelError(
            "{source}: not all values are finite; the model is broken, nothing was written", source=tensor.source
        )
    if tensor.type == GGMLQuantizationType.F32:
        return value.float().numpy()
    is_half = tensor.type == GGMLQuantizationType.F16
    if not is_finite((value if is_half else value / _Q8_MOST).half()):
        raise ModelError(
            "{source}: values up to {float:.3g} do not fit {name}, whose largest is {largest:.3g}; write it as f32",
            source=tensor.source,
            float=float(value.abs().max()),
            name=tensor.type.name,
            largest=_LARGEST * (1 if is_half else _Q8_MOST),
        )
    if is_half:
        return value.half().numpy()
    with np.errstate(over="ignore", invalid="ignore"):  # of blocks too small for float16, whose step becomes 0
        return quantize(value.float().numpy(), tensor.type)


def _prove(draft: Path, fields: Mapping[str, Value], tensors: Sequence[Tensor], weights: StoredWeights) -> float:
    started = time.monotonic()
    error = prove(draft, fields, tensors, weights)
    logger.info(
        "proof: %d tensors and %d keys read again; values off by %.2g of their tensor's largest at most (%.0f s)",
        len(tensors),
        len(fields),
        error,
        time.monotonic() - started,
    )
    return error
