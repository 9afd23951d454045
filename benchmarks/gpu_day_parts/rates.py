"""Matrix products of random numbers and of ones, the time of an operation on the host, launches of a micro-batch."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gpu_day_parts.job import Job
from gpu_day_parts.layered import Tuned
from yangtuo.engine.flops import matmul_rate

_LAYERS = 4


def measure(job: Job) -> dict[str, Any]:
    """All three."""
    device = torch.device(job.device)
    products = {str(dtype).removeprefix("torch."): _products(job, device, dtype) for dtype in _dtypes(device)}
    on_host = {"one operation": _host_seconds(device, grad=False), "with autograd": _host_seconds(device, grad=True)}
    launches = _launches(job)
    first = products["bfloat16" if "bfloat16" in products else "float32"]
    told = f"random {first['random'] / 1e12:,.1f} TFLOP/s, ones {first['ones'] / 1e12:,.1f}"
    return {
        "matmul_flop_per_s": products,
        "host_seconds_of": on_host,
        "micro_batch": launches,
        "headline": f"{told}; {on_host['one operation'] * 1e6:.1f} us an operation on the host, "
        f"{launches['operations_a_layer']:.0f} a layer",
    }


def _dtypes(device: torch.device) -> list[torch.dtype]:
    if device.type == "cpu":
        return [torch.float32]
    return [torch.bfloat16, torch.float16, torch.float32]


def _products(job: Job, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """As engine/flops.py measures it, and the same with random numbers, which switch more transistors."""
    seconds = 0.1 if job.rehearses else 1.0
    size = 1024 if device.type == "cpu" else 4096
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    rates = {"engine/flops.py": matmul_rate(device, dtype)}
    ones = torch.ones(size, size, device=device, dtype=dtype)
    rates["ones"] = 2 * size**3 / _best_seconds(lambda: torch.mm(ones, ones), device, seconds)
    rates["random"] = 2 * size**3 / _best_seconds(lambda: torch.mm(a, b), device, seconds)
    rates["ones_over_random"] = rates["ones"] / rates["random"]
    return rates


def _best_seconds(work: Callable[[], Any], device: torch.device, seconds: float) -> float:
    best, begin = float("inf"), time.monotonic()
    while best == float("inf") or time.monotonic() - begin < seconds:
        start = time.perf_counter()
        work()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def _host_seconds(device: torch.device, *, grad: bool, number: int = 2000) -> float:
    """Of an operation on one number, until the call returns."""
    x = torch.ones(1, device=device, requires_grad=grad)
    for _ in range(100):
        _ = x * 1.0
    begin = time.perf_counter()
    y = x
    for _ in range(number):
        y = y * 1.0
    taken = (time.perf_counter() - begin) / number
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return taken


class _Count(TorchDispatchMode):
    number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += 1
        return func(*args, **(kwargs or {}))


def _launches(job: Job) -> dict[str, Any]:
    """Of a micro-batch on a few layers of the shape: operations, kernels, seconds on the host and of the device."""
    tuned = Tuned(job.base, job.device, num_layers=2 if job.rehearses else _LAYERS)
    num_layers = tuned.config.num_hidden_layers
    batch = tuned.batch(8, 16 if job.rehearses else 128)
    for _ in range(2):
        tuned.step(batch)
    with _Count() as count:
        tuned.step(batch)
    tuned.wait()
    begin = time.perf_counter()
    tuned.step(batch)
    on_host = time.perf_counter() - begin
    tuned.wait()
    found = {
        "layers": num_layers,
        "cells": int(batch.input_ids.numel()),
        "operations": count.number,
        "operations_a_layer": count.number / num_layers,
        "seconds_on_the_host": on_host,
        "seconds": time.perf_counter() - begin,
    }
    return found | ({} if tuned.device.type == "cpu" else _kernels(tuned, batch))


def _kernels(tuned: Tuned, batch: Any) -> dict[str, Any]:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        tuned.step(batch)
        tuned.wait()
    events = [event for event in seen.events() if event.device_type.name == "CUDA"]
    return {"kernels": len(events), "kernel_seconds": sum(event.device_time_total for event in events) / 1e6}
