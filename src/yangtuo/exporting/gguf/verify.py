"""A GGUF file, read again from the disk and compared with the folder that it was made of.

The values are decoded here, by the format's definition, and not by the code that encoded them.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader
from tqdm import tqdm

from yangtuo.errors import ProofError, one_line
from yangtuo.exporting.gguf.model import Tensor
from yangtuo.exporting.gguf.vocabulary import Value
from yangtuo.model.stored_weights import StoredWeights

_BLOCK_VALUES = 1 << 20  # compared at a time
_Q8_VALUES, _Q8_BYTES, _Q8_MOST = 32, 34, 127  # a float16 step and 32 signed bytes
# Of a step, beyond the half that rounding to the nearest allows: float32 arithmetic on numbers up to 127.
_Q8_SLACK = 1e-4


def prove(path: Path, fields: Mapping[str, Value], tensors: Sequence[Tensor], weights: StoredWeights) -> float:
    """Compare every key and every value of a GGUF file with what it must hold.

    float32 and float16 values must be the folder's, rounded to the nearest; of q8_0 the step must be the block's
    largest value / 127, and every value the nearest multiple of it.

    Returns:
        The largest error of a value, as a part of the largest value of its tensor.

    Raises:
        ProofError: the file cannot be read, or something in it differs; what, is named.
    """
    reader = _opened(path)
    _compare_fields(reader, fields)
    found = {tensor.name: tensor for tensor in reader.tensors}
    if differing := sorted(found.keys() ^ {tensor.name for tensor in tensors}):
        raise ProofError(
            "proof failed: {name} has other tensors than the model: {differing}",
            name=path.name,
            differing=", ".join(differing[:4]),
        )
    end = max(
        tensor.data_offset + -(-tensor.n_bytes // reader.alignment) * reader.alignment for tensor in found.values()
    )
    if path.stat().st_size != end:
        raise ProofError(
            "proof failed: {name} has {st_size:,} bytes, its tensors end at {end:,}",
            name=path.name,
            st_size=path.stat().st_size,
            end=end,
        )
    worst = 0.0
    for tensor in tqdm(tensors, "proving", unit="tensor", leave=False, disable=None, file=sys.stderr):
        read = found[tensor.name]
        shape = tuple(int(n) for n in reversed(read.shape.tolist()))
        if (shape, read.tensor_type) != (tensor.shape, tensor.type):
            raise ProofError(
                "proof failed: {name} is {kind} {shape}, expected {wanted_kind} {wanted_shape}",
                name=tensor.name,
                kind=read.tensor_type.name,
                shape=list(shape),
                wanted_kind=tensor.type.name,
                wanted_shape=list(tensor.shape),
            )
        worst = max(worst, _largest_error(tensor, _mapped(path, tensor, read.data_offset), tensor.read(weights)))
    return worst


def _opened(path: Path) -> Any:
    try:
        return GGUFReader(path)
    except (OSError, ValueError, KeyError, IndexError, OverflowError) as error:  # whatever a broken header leads to
        raise ProofError(
            "proof failed: {name} cannot be read: {error}", name=path.name, error=one_line(error, 160)
        ) from error


def _mapped(path: Path, tensor: Tensor, offset: int) -> Any:
    """[rows, bytes of a row], the file's pages; a mapping of its own, so that they do not add up to the whole file."""
    num_rows = tensor.shape[0] if len(tensor.shape) > 1 else 1
    return np.memmap(path, np.uint8, "r", offset, (num_rows, tensor.num_bytes // num_rows))


def _compare_fields(reader: Any, fields: Mapping[str, Value]) -> None:
    found = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    if differing := sorted(found.keys() ^ fields.keys()):
        raise ProofError("proof failed: keys that differ: {differing}", differing=", ".join(differing[:4]))
    for name, value in fields.items():
        if not _is_same(found[name].contents(), value):
            raise ProofError("proof failed: {name} is not what was written", name=name)


def _is_same(read: object, value: Value) -> bool:
    """Equal, floats as float32 keeps them."""
    if isinstance(value, float) or (isinstance(value, list) and value and isinstance(value[0], float)):
        return bool(np.array_equal(np.asarray(read, np.float32), np.asarray(value, np.float32)))
    return bool(read == value)


def _largest_error(tensor: Tensor, data: Any, source: torch.Tensor) -> float:
    """Compare block by block; the largest error as a part of the tensor's largest value."""
    rows = source.reshape(len(source), -1) if source.dim() > 1 else source.reshape(1, -1)
    step = max(1, _BLOCK_VALUES // rows.shape[1])
    error = peak = 0.0
    for start in range(0, len(rows), step):
        wanted = rows[start : start + step].float()
        read = torch.from_numpy(np.array(data[start : start + step]))  # a copy: the file's pages cannot be written to
        if tensor.type == GGMLQuantizationType.Q8_0:
            values = _q8_values(tensor.name, read, wanted)
        else:
            values = _rounded_values(tensor, read, wanted)
        error = max(error, float((values - wanted).abs().max()))
        peak = max(peak, float(wanted.abs().max()))
    return error / peak if peak else 0.0


def _rounded_values(tensor: Tensor, read: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    dtype, bits = (
        (torch.float32, torch.int32) if tensor.type == GGMLQuantizationType.F32 else (torch.float16, torch.int16)
    )
    if not torch.equal(read.view(bits), wanted.to(dtype).view(bits)):
        raise ProofError("proof failed: {name} has values that are not the folder's", name=tensor.name)
    return read.view(dtype).float()


def _q8_values(name: str, read: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    blocks = read.reshape(-1, _Q8_BYTES)
    scale = blocks[:, :2].contiguous().view(torch.float16)
    counts = blocks[:, 2:].contiguous().view(torch.int8).float()
    values = wanted.reshape(-1, _Q8_VALUES)
    step = values.abs().amax(1, keepdim=True) / _Q8_MOST
    is_right = torch.equal(scale.view(torch.int16), step.half().view(torch.int16))
    distance = (counts * step - values).abs()
    # Where a block is too small for float16, its step is 0 and so is every value, whatever is counted.
    if not is_right or bool(((distance > step * (0.5 + _Q8_SLACK)) & (scale != 0)).any()):
        raise ProofError("proof failed: {name} has values that are not the folder's", name=name)
    return (counts * scale.float()).reshape(wanted.shape)
