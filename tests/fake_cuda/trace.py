"""What was recorded of a step: plain values, which any process can read without a fake device."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

_WIDTHS = {"float64": 8, "int64": 8, "uint64": 8, "float32": 4, "int32": 4, "bfloat16": 2, "float16": 2}

# Kernels of operations that are not one kernel on a CUDA device; of views there is none.
_KERNELS = {
    "logsumexp": 9,
    "select_backward": 2,
    "slice_backward": 2,
    "_varlen_attn_backward": 4,
    "attention_backward": 3,
    "index_put": 4,
    **dict.fromkeys(("empty", "empty_like", "new_empty", "empty_strided"), 0),
}

_TENSORS_A_KERNEL = 110  # of lists of tensors, about: torch's multi_tensor_apply


class Value(NamedTuple):
    """A tensor: its shape, the name of its dtype, the type of its device."""

    shape: tuple[int, ...]
    dtype: str
    device: str

    @property
    def num_bytes(self) -> int:
        """Bytes of all elements."""
        return math.prod(self.shape) * _WIDTHS.get(self.dtype, 1)


class Op(NamedTuple):
    """An operation below autograd.

    Attributes:
        phase: forward, between, backward, recomputed (a forward inside the backward) or step.
        name: of aten's operation.
        path: of the module whose forward it is, or whose forward it goes back from.
        node: autograd's node; "" in a forward.
        outs: tensors that it gives.
        ins: tensors that it takes.
        flop: of matrix products; 0 for all else.
        read: bytes, elements that are repeated by a stride of 0 counted once.
        written: bytes.
        is_view: it moves nothing.
        wait: what the host waits for, or copies; "" for nothing.
        live: bytes of the device that are taken after it.
    """

    phase: str
    name: str
    path: str
    node: str
    outs: tuple[Value, ...]
    ins: tuple[Value, ...]
    flop: int
    read: int
    written: int
    is_view: bool
    wait: str
    live: int

    @property
    def is_on_device(self) -> bool:
        """Whether any of its tensors is."""
        return any(value.device == "cuda" for value in (*self.ins, *self.outs))

    @property
    def kernels(self) -> int:
        """Kernels that a device would run for it."""
        if self.is_view or not self.is_on_device:
            return 0
        if self.name.startswith(("_foreach", "_fused")):
            return -(-len(self.ins) // _TENSORS_A_KERNEL)
        return _KERNELS.get(self.name, 1)

    @property
    def layer(self) -> int | None:
        """Number of the decoder layer that it belongs to."""
        parts = self.path.partition(".layers.")[2].split(".")
        return int(parts[0]) if parts[0].isdigit() else None


@dataclass
class Trace:
    """A step, recorded.

    Attributes:
        ops: in order.
        lengths: tokens of the rows.
        cells: distinct prefixes of the rows, which the model computes.
        predictions: cells with a loss.
        num_layers: of the model.
        model_bytes: live once the model with its LoRA is on the device.
        free_when_asked: free memory that the run was told of when it decided how to cut steps.
        steady: bytes that are live before the step: weights, optimizer, what a step leaves.
        kept: bytes that are live between forward and backward.
        peak: most bytes that are live within the step.
        kept_by: bytes that live between forward and backward, by path without the layer's number, operation and dtype.
        peak_by: the same at the peak.
        peak_at: phase and operation of the peak.
    """

    ops: list[Op] = field(default_factory=list)
    lengths: tuple[int, ...] = ()
    cells: int = 0
    predictions: int = 0
    num_layers: int = 0
    model_bytes: int = 0
    free_when_asked: int = 0
    steady: int = 0
    kept: int = 0
    peak: int = 0
    kept_by: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    peak_by: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    peak_at: tuple[str, str] = ("", "")

    def of(self, *phases: str) -> Iterator[Op]:
        """The operations of some phases."""
        return (op for op in self.ops if op.phase in phases)

    def kernels(self, *phases: str) -> int:
        """Kernels of some phases; of all without any."""
        return sum(op.kernels for op in self.ops if not phases or op.phase in phases)
