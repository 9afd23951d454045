"""How much memory a micro-batch takes, estimated from the shape of the model; and how large it may be."""

import contextlib
import ctypes
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from yangtuo.model.layer_values import value_of

# On a CPU larger ones are no faster (docs/log.md); on a GPU a guess, since none was there to measure on.
MOST_CELLS = {"cpu": 1024, "cuda": 16384}
# Part of the free memory that activations may take: on a CPU other programs want some too.
_USED = {"cpu": 0.6, "cuda": 0.9}
_OF_TRAINED_WEIGHT = 14  # bytes: its gradient, AdamW's two moments, and its copy in 16 bits
_OF_DROPPED = 9  # bytes, of a number that dropout leaves out: its place, and room for chance
_OF_LOGIT = 8  # bytes, in a chunk of the loss: of the head in 16 bits, log-probability, gradient in 16 bits


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model that decide its activations.

    Attributes:
        num_layers: decoder layers.
        hidden: of the residual stream.
        intermediate: of the largest MLP.
        queries: heads x their size.
        keys: heads of keys x their size.
        num_heads: of queries.
        width: bytes of a number in the forward.
        rank: of LoRA, on all projections.
        dropout: of LoRA.
        is_fused: LoRA is a function that keeps one input for all and the places that are dropped, as on a CPU; else
            each matrix of PEFT's keeps an input of its own and a mask where there is dropout.
    """

    num_layers: int
    hidden: int
    intermediate: int
    queries: int
    keys: int
    num_heads: int
    width: int
    rank: int
    dropout: float
    is_fused: bool

    @classmethod
    def of(
        cls, config: Any, width: int, rank: int = 8, *, dropout: float = 0.05, is_fused: bool = False
    ) -> "ModelShape":
        """Read from transformers' configuration; of a model with other names, a guess on the large side."""
        text = config.get_text_config()
        hidden = value_of(text, "hidden_size") or 4096
        layers = value_of(text, "num_hidden_layers") or 32
        of_mlp = value_of(text, "intermediate_size") or 4 * hidden
        heads = _largest(value_of(text, "num_attention_heads") or 32)
        size = _largest(value_of(text, "head_dim") or hidden // heads)
        of_keys = _largest(value_of(text, "num_key_value_heads") or heads)
        shape = (layers, hidden, _largest(of_mlp), heads * size, of_keys * size, heads)
        return cls(*shape, width, rank, dropout, is_fused)

    def bytes_per_cell(self, *, checkpointing: bool) -> int:
        """Bytes that the backward of one cell needs.

        Counted tensor by tensor in a LLaMA with LoRA on all projections, on a device that is not there (docs/gpu.md);
        `tests/fake_cuda/test_memory.py` holds it. With checkpointing, a layer keeps its input only, and one layer at a
        time is computed again.
        """
        of_layer, hidden, width = self.layer_bytes_per_cell(), self.hidden, self.width
        if checkpointing:
            return math.ceil(width * hidden * self.num_layers + of_layer + width * (self.intermediate + 5 * hidden))
        return math.ceil(of_layer * self.num_layers + 3 * width * hidden)

    def layer_bytes_per_cell(self) -> float:
        """What one decoder layer keeps of a cell for its backward."""
        hidden, inner, width = self.hidden, self.intermediate, self.width
        inputs = 5 * hidden + self.queries + inner, 2 * hidden + self.queries + inner  # of projections: all, distinct
        if self.is_fused:
            of_lora = width * inputs[1] + _OF_DROPPED * self.dropout * inputs[0]
        else:
            of_lora = (width + 1) * inputs[0] if self.dropout else width * inputs[1]
        of_norms = 8 * hidden + 8 + 4 * self.num_heads  # in float32 whatever the rest is; and attention's statistics
        others = 2 * self.queries + 2 * self.keys + 3 * inner + 7 * self.rank
        return of_norms + of_lora + width * others

    def bytes_per_repeated_token(self, *, checkpointing: bool) -> int:
        """Bytes that a token needs whose cell another row has too: attention keeps a copy of it for each row."""
        layers = 1 if checkpointing else self.num_layers
        return 2 * self.width * (self.queries + self.keys) * layers


def _largest(value: Any) -> int:
    """Of a value that may be a list with one for each layer."""
    return int(max(value) if isinstance(value, list | tuple) else value)


def bytes_beside(num_trained: int, chunk_bytes: int) -> int:
    """What a step takes whatever its cells: of trained weights, and a chunk of float32 logits of so many bytes."""
    return _OF_TRAINED_WEIGHT * num_trained + chunk_bytes // 4 * _OF_LOGIT


def free_bytes(device: torch.device) -> int:
    """Memory that activations may use now, with the model loaded: the device's own, or the machine's where it has none.

    What torch keeps for tensors to come is free, too.
    """
    try:
        if device.type != "cpu":
            free = int(torch.accelerator.get_memory_info(device)[0])
            return free + torch.accelerator.memory_reserved(device) - torch.accelerator.memory_allocated(device)
    except RuntimeError:  # of an accelerator that keeps no account, as Apple's, which uses the machine's memory
        pass
    return int(psutil.virtual_memory().available)


def used_bytes(device: torch.device) -> dict[str, int]:
    """Memory in use now and at most so far, of this process and its device, for log.jsonl.

    Main memory is the resident set: pages of files that are mapped count, as those of weights.
    """
    process = psutil.Process().memory_info()
    used = {"memory_bytes": int(process.rss), "peak_memory_bytes": peak_resident_bytes()}
    with contextlib.suppress(RuntimeError):  # of an accelerator that keeps no account
        if device.type != "cpu":
            used["device_memory_bytes"] = int(torch.accelerator.memory_allocated(device))
            used["device_peak_bytes"] = int(torch.accelerator.max_memory_allocated(device))
    return used


def peak_resident_bytes() -> int:
    """The most main memory that this process has had."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return int(psutil.Process().memory_info().rss)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def choose_max_cells(shape: ModelShape, free: int, device_type: str, *, checkpointing: bool) -> int:
    """Cells of the largest micro-batch; at least one."""
    fits = int(free * _used(device_type)) // shape.bytes_per_cell(checkpointing=checkpointing)
    return max(1, min(fits, MOST_CELLS.get(device_type, MOST_CELLS["cuda"])))


def needs_checkpointing(shape: ModelShape, free: int, device_type: str, longest_row: int) -> bool:
    """Whether even one row, the longest, would not fit without computing layers twice."""
    return longest_row * shape.bytes_per_cell(checkpointing=False) > free * _used(device_type)


def _used(device_type: str) -> float:
    return _USED.get(device_type, _USED["cuda"])


def keep_freed_memory() -> bool:
    """Have glibc keep freed memory for the next tensor, instead of giving it back to the system page by page.

    Every layer frees and takes the same sizes; fresh pages have to be cleared first, which cost 5 to 11 % of a step on
    a CPU (docs/log.md). What is freed joins its neighbours at once, small blocks too, so that the next tensor of the
    same size finds room; see `joins_freed_memory`. Returns whether it was done: only on glibc.

    Source: mallopt(3), M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and M_MXFAST.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    trim_threshold, mmap_threshold, largest_fast_block, largest = -1, -3, 1, 2**31 - 1
    mallopt(largest_fast_block, 0)
    return bool(mallopt(trim_threshold, largest)) and bool(mallopt(mmap_threshold, 2**30))


def joins_freed_memory() -> bool:
    """Whether glibc's cache of small blocks is off in this process, as `yangtuo train` starts it on a CPU.

    With it, the few bytes that are cut off a block's ends for its alignment do not come back to it when it is freed.
    """
    return sys.platform.startswith("linux") and "glibc.malloc.tcache_count=0" in os.environ.get("GLIBC_TUNABLES", "")
