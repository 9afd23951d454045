"""What GPUs reach, and how long an operation takes on one by a roofline: the slowest of its arithmetic, bytes, launch.

Rates are what kernels reach, not what data sheets say; docs/gpu.md has the sources.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tests.fake_cuda.trace import Op, Value

# Measured by a run of somebody else's on an H100 (NeMo, docs/gpu.md) over what these rates say of the same run.
CALIBRATION = 1.09
SHORTEST_KERNEL = 2.5e-6  # seconds, with the gap to the next
_PRODUCTS = ("mm", "addmm", "bmm", "addmm_", "baddbmm")
_ATTENTION = ("_varlen_attn", "attention")
_BACKWARD = ("_varlen_attn_backward", "attention_backward")
ATTENTION = (*_ATTENTION, *_BACKWARD)


@dataclass(frozen=True)
class Device:
    """Rates that are reached, in FLOP/s and bytes/s, in 16 bit; attention is flash attention 2."""

    name: str
    product: float
    attention: float
    attention_backward: float
    bandwidth: float


DEVICES = (
    Device("H100", 680e12, 380e12, 290e12, 0.88 * 3.35e12),
    Device("A100", 250e12, 190e12, 150e12, 0.88 * 2.04e12),
    Device("4090", 150e12, 150e12, 99e12, 0.92 * 1.008e12),
)


def seconds(op: Op, device: Device, lengths: Sequence[int]) -> float:
    """Time of an operation; `lengths` are those of the rows that attention goes along."""
    if not op.kernels:
        return 0.0
    arithmetic = 0.0
    if op.name in _PRODUCTS:
        arithmetic = op.flop / device.product
    elif op.name in ATTENTION:
        is_backward = op.name in _BACKWARD
        rate = device.attention_backward if is_backward else device.attention
        arithmetic = _attention_flop(op, lengths) * (2.5 if is_backward else 1.0) / rate
    return max(arithmetic, moved(op) / device.bandwidth, SHORTEST_KERNEL * op.kernels)


def _attention_flop(op: Op, lengths: Sequence[int]) -> float:
    """Two products over the lower half of each row's square."""
    query = op.ins[1 if op.name in _BACKWARD else 0].shape
    if len(query) == 3:  # rows end to end
        _, heads, width = query
        return 2.0 * heads * width * sum(n * n for n in lengths)
    rows, heads, length, width = query
    return 2.0 * rows * heads * width * length**2


def _sum(values: Sequence[Value]) -> int:
    return sum(value.num_bytes for value in values)


def moved(op: Op) -> int:
    """Bytes that the kernels of an operation move on a device; not always what its tensors hold."""
    if not op.kernels:
        return 0
    name, out = op.name, _sum(op.outs)
    special = {
        "logsumexp": lambda: 4 * 6 * math.prod(op.ins[0].shape),  # four kernels read it all, two write it all
        "index_add": lambda: 3 * op.ins[2].num_bytes,  # in place: read, added to, written
        "index_put": lambda: 3 * op.ins[-1].num_bytes,
        "index_put_": lambda: 3 * op.ins[-1].num_bytes,
        "index": lambda: 2 * out,
        "index_select": lambda: 2 * out,
        "gather": lambda: 2 * out,
        "embedding": lambda: 2 * out,
        "select_backward": lambda: out + 2 * op.ins[0].num_bytes,
        "slice_backward": lambda: out + 2 * op.ins[0].num_bytes,
        # Everything is read twice, once for q's gradient and once for k's and v's; q's is added up in float32.
        "_varlen_attn_backward": lambda: 2 * _sum(op.ins[:5]) + 4 * op.ins[1].num_bytes + out,
        "attention_backward": lambda: 2 * _sum(op.ins[:5]) + 4 * op.ins[1].num_bytes + out,
        **dict.fromkeys(("zeros", "zeros_like", "new_zeros", "ones_like", "fill_", "zero_", "arange"), lambda: out),
    }
    if name == "_fused_adamw_":
        return 7 * op.read // 4  # weights, gradients and two moments are read; all but the gradients are written
    return special[name]() if name in special else op.read + op.written
