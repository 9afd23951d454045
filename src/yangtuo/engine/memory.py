"""How much memory a micro-batch takes, estimated from the shape of the model; and how large it may be."""

import ctypes
import sys
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from yangtuo.model.layer_values import value_of

# On a CPU larger ones are no faster (docs/log.md); on a GPU a guess, since none was there to measure on.
MOST_CELLS = {"cpu": 1024, "cuda": 16384}
_USED = 0.6  # part of the free memory that activations may take: the estimate is one


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model that decide its activations: of its largest MLP, and `width` bytes a number in the forward."""

    num_layers: int
    hidden: int
    intermediate: int
    width: int

    @classmethod
    def of(cls, config: Any, width: int) -> "ModelShape":
        """Read from transformers' configuration; of a model with other names, a guess on the large side."""
        text = config.get_text_config()
        hidden = value_of(text, "hidden_size") or 4096
        layers = value_of(text, "num_hidden_layers") or 32
        of_mlp = value_of(text, "intermediate_size") or 4 * hidden
        return cls(layers, hidden, max(of_mlp) if isinstance(of_mlp, list | tuple) else of_mlp, width)

    def bytes_per_cell(self, *, checkpointing: bool) -> int:
        """Bytes that the backward of one cell needs: what 24 hidden-sized and 6 MLP-sized tensors a layer take.

        Counted in a LLaMA with LoRA on all projections (docs/log.md). With checkpointing, a layer keeps its input
        only, and one layer at a time is computed again.
        """
        of_layer = 24 * self.hidden + 6 * self.intermediate
        kept = 2 * self.hidden * self.num_layers + of_layer if checkpointing else of_layer * self.num_layers
        return kept * self.width


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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Ascend's and Apple's errors for it are of no type of their own."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "out of memory" in str(error).lower()
    )


def choose_max_cells(shape: ModelShape, free: int, device_type: str, *, checkpointing: bool) -> int:
    """Cells of the largest micro-batch; at least one."""
    fits = int(free * _USED) // shape.bytes_per_cell(checkpointing=checkpointing)
    return max(1, min(fits, MOST_CELLS.get(device_type, MOST_CELLS["cuda"])))


def needs_checkpointing(shape: ModelShape, free: int, longest_row: int) -> bool:
    """Whether even one row, the longest, would not fit without computing layers twice."""
    return longest_row * shape.bytes_per_cell(checkpointing=False) > free * _USED


def keep_freed_memory() -> bool:
    """Have glibc keep freed memory for the next tensor, instead of giving it back to the system page by page.

    Every layer frees and takes the same sizes; fresh pages have to be cleared first, which cost 5 to 11 % of a step on
    a CPU (docs/log.md). Returns whether it was done: elsewhere than on glibc nothing happens.

    Source: mallopt(3), M_TRIM_THRESHOLD and M_MMAP_THRESHOLD.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    trim_threshold, mmap_threshold, largest = -1, -3, 2**31 - 1
    return bool(mallopt(trim_threshold, largest)) and bool(mallopt(mmap_threshold, 2**30))
