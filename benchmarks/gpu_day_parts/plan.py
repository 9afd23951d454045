"""Which parts there are, in order of worth. Imports no torch: a part's module is imported in its own process."""

import importlib
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from gpu_day_parts.day import Part

_PARTS: tuple[
    tuple[str, str, int, str], ...
] = (  # name, what it shows, seconds, module:function or module:function:argument
    ("tests_attention", "tests/gpu: attention's kernels against rows one by one", 30, "tests:run_file:attention"),
    ("tests_curves", "tests/gpu: the losses of runs, shared, padded, on the CPU", 150, "tests:run_file:curves"),
    ("tests_float16", "tests/gpu: float16, its loss scale and what it skips", 60, "tests:run_file:float16"),
    ("tests_memory", "tests/gpu: what is free, and what happens when nothing is", 120, "tests:run_file:memory"),
    ("base", "write the bases with random weights", 60, "speed:make_base"),
    ("speed_full", "tokens/s of full rows beside plain transformers and PEFT", 150, "speed:full"),
    ("speed_short", "tokens/s of short Chinese rows beside the same", 140, "speed:short"),
    ("speed_compiled_full", "--torch_compile on and off, full rows", 150, "speed:compiled_full"),
    ("speed_compiled_short", "--torch_compile on and off, short rows", 150, "speed:compiled_short"),
    ("speed_trl", "tokens/s beside TRL, short rows", 120, "speed:trl"),
    ("memory", "bytes a cell, estimated and measured", 60, "footprint:measure"),
    ("out_of_memory", "memory runs out: halved, with the same losses", 60, "train_runs:out_of_memory"),
    ("float16", "float16: steps that overflow are skipped and told", 60, "train_runs:float16"),
    ("nccl_one", "torchrun with one process", 50, "train_runs:one_process"),
    ("nccl_all", "torchrun with a process for each GPU", 60, "train_runs:all_gpus"),
    ("rates", "matrix products, host time of an operation, launches", 40, "rates:measure"),
)


def all_parts() -> list[Part]:
    """In order of worth."""
    return [
        Part(name, shows, seconds, (sys.executable, "-m", "gpu_day_parts", "_part", name))
        for name, shows, seconds, _ in _PARTS
    ]


def function_of(name: str) -> Callable[..., Any]:
    """What a part's process runs on its job."""
    where = next(place for own, _, _, place in _PARTS if own == name)
    module, function, *argument = where.split(":")
    found = getattr(importlib.import_module(f"gpu_day_parts.{module}"), function)
    return partial(found, name=argument[0]) if argument else found
