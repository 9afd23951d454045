"""The child that asks the machine: device, number format, matrix-multiply rate on the model's own products."""

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from throughput_parts.work import ModelShape
from yangtuo.errors import UsageError
from yangtuo.model.architecture import read_config
from yangtuo.model.processor import detect_hardware

MATMUL_TOKENS = (1024, 2048, 2816)


def measure_machine(job: dict[str, Any]) -> dict[str, Any]:
    """Device, number format, the model's shape, and the best matrix-multiply rate on that shape's own products.

    Each linear layer's forward product and that of its input's gradient, at several numbers of tokens. The best of
    all of them is the bound: lower than the data sheet's, but nothing measured here went faster.

    Raises:
        UsageError: a number format that the machine has not.
    """
    hardware = detect_hardware(use_cpu=False)
    dtype = job["dtype"] or ("bfloat16" if hardware.bfloat16 else "float32")
    if dtype == "bfloat16" and not hardware.bfloat16:
        raise UsageError("--dtype bfloat16: this processor would emulate it; give float32, or leave it out")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(read_config(Path(job["model"])))
    head = model.get_output_embeddings()
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear) and module is not head]
    sizes = sorted({(layer.out_features, layer.in_features) for layer in layers})
    rates = [
        {"tokens": tokens, "out": out, "in": wide, **_matmul_rates(tokens, out, wide, hardware.device, dtype)}
        for tokens in MATMUL_TOKENS
        for out, wide in sizes
    ]
    config = model.config
    num_heads = config.num_attention_heads
    shape = ModelShape(
        linear_weights=sum(layer.out_features * layer.in_features for layer in layers),
        hidden_size=config.hidden_size,
        vocabulary=head.weight.shape[0],
        num_layers=config.num_hidden_layers,
        num_heads=num_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // num_heads,
    )
    return {
        "device": torch.cuda.get_device_name() if hardware.device == "cuda" else hardware.device,
        "dtype": dtype,
        "torch_threads": torch.get_num_threads(),
        "shape": asdict(shape),
        "matmul_flop_per_s": max(max(rate["forward_flop_per_s"], rate["backward_flop_per_s"]) for rate in rates),
        "matmul_rates": rates,
    }


def _matmul_rates(tokens: int, out: int, wide: int, device: str, dtype: str) -> dict[str, float]:
    inputs, gradients, weight = (
        torch.randn(*size, device=device, dtype=getattr(torch, dtype))
        for size in ((tokens, wide), (tokens, out), (out, wide))
    )
    flop = 2 * tokens * out * wide
    return {
        "forward_flop_per_s": flop / _best_seconds(lambda: torch.mm(inputs, weight.t()), device),
        "backward_flop_per_s": flop / _best_seconds(lambda: torch.mm(gradients, weight), device),
    }


def _best_seconds(work: Callable[[], Any], device: str, *, at_least: int = 4, seconds: float = 0.2) -> float:
    taken: list[float] = []
    while len(taken) < at_least or sum(taken) < seconds:
        begin = time.perf_counter()
        work()
        if device != "cpu":
            torch.accelerator.synchronize()
        taken.append(time.perf_counter() - begin)
    return min(taken)
