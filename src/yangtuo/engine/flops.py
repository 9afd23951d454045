"""The arithmetic that a step cannot do without, and how fast this machine does arithmetic: what MFU is made of."""

import functools
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from yangtuo.engine.expert_load import ExpertLoad
from yangtuo.engine.layout import Layout
from yangtuo.model.layer_values import values_of_layers


@dataclass(frozen=True)
class FlopCount:
    """Sizes that decide the arithmetic of a forward and backward with frozen weights.

    Attributes:
        linear_weights: weights of the linear layers of all blocks.
        head_weights: hidden size x vocabulary.
        attention_width: heads x head size, of all layers together.
    """

    linear_weights: int
    head_weights: int
    attention_width: int

    @classmethod
    def of(cls, model: Any) -> "FlopCount":
        """Count in a causal language model of transformers, LoRA matrices left out."""
        text = model.config.get_text_config()
        blocks = model.get_decoder().named_parameters()
        linear = sum(p.numel() for name, p in blocks if p.dim() == 2 and not any(part in name for part in _NOT_LINEAR))
        heads, sizes = values_of_layers(text, "num_attention_heads"), values_of_layers(text, "head_dim")
        width = sum(n * (size or text.hidden_size // n) for n, size in zip(heads, sizes, strict=True) if n)
        return cls(linear, text.hidden_size * text.vocab_size, width)

    def flop(self, layouts: Iterable[Layout]) -> int:
        """Floating-point operations: 4 a weight and cell (forward, and the gradient of the activations).

        The head counts at predictions only, attention as 12 for each pair of a cell and one that it sees (2 products
        forward, 4 backward). LoRA, norms and softmax do not count.
        """
        total = 0
        for layout in layouts:
            real = layout.attention_mask.astype(bool) if layout.attention_mask is not None else slice(None)
            places = layout.position_ids[real]
            total += 4 * self.linear_weights * places.size + 4 * self.head_weights * len(layout.targets)
            total += 12 * self.attention_width * int(np.sum(places + 1))
        return total


class StepMeter:
    """What a step was done at: its seconds, tokens a second, and the share of this machine's speed that it used."""

    def __init__(self, model: Any, device: torch.device, dtype: torch.dtype):
        """The model of transformers that is trained, where, and in which dtype it computes."""
        self._flops, self._peak_rate = FlopCount.of(model), matmul_rate(device, dtype)
        self._experts = ExpertLoad(model)
        self._begin = self._waited = 0.0

    def begin(self) -> None:
        """Call when a step begins."""
        self._begin, self._waited = time.monotonic(), _waited_for_processor()
        self._experts.reset()

    def flop(self, layouts: Iterable[Layout]) -> int:
        """See `FlopCount.flop`."""
        return self._flops.flop(layouts)

    def rates(self, layouts: Iterable[Layout], num_tokens: float) -> dict[str, float]:
        """Of the step that has just ended."""
        seconds = time.monotonic() - self._begin
        waited = (_waited_for_processor() - self._waited) / seconds
        return {
            "tokens_per_s": num_tokens / seconds,
            "mfu": self.flop(layouts) / seconds / self._peak_rate,
            "step_seconds": seconds,
            "cpu_wait": waited,
            **self._experts.shares(),
        }


def _waited_for_processor() -> float:
    """Seconds that the main thread was ready to run and had no processor; 0 where the system does not tell.

    Source: Linux, Documentation/scheduler/sched-stats.rst, /proc/<pid>/schedstat.
    """
    try:
        return int(Path("/proc/self/schedstat").read_bytes().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


_NOT_LINEAR = ("embed", "lora_", "wte", "wpe")


@functools.cache
def matmul_rate(device: torch.device, dtype: torch.dtype, *, seconds: float = 0.1) -> float:
    """Floating-point operations a second of torch's own matrix product here, the best seen within `seconds`."""
    size = 1024 if device.type == "cpu" else 4096
    a, b = (torch.rand(size, size, device=device).to(dtype) for _ in range(2))
    best, begin = float("inf"), time.monotonic()
    while best == float("inf") or time.monotonic() - begin < seconds:
        start = time.perf_counter()
        torch.mm(a, b)
        if device.type != "cpu":
            torch.accelerator.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def bfloat16_rate() -> float:
    """Speed of matrix products in bfloat16 on this CPU, by that in float32; measured in a tenth of a second."""
    device = torch.device("cpu")
    return matmul_rate(device, torch.bfloat16, seconds=0.05) / matmul_rate(device, torch.float32, seconds=0.05)
