"""Dtypes of weights: their names, and how far a value moves when it is rounded to one."""

import torch

BY_NAME = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ALIASES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16"}

# Largest relative error of rounding to the nearest: half of the distance between two neighbours at 1.
ROUNDING = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


def named(name: str) -> torch.dtype | None:
    """The dtype of that name, torch's own or a short one; None for others."""
    return BY_NAME.get(ALIASES.get(name, name))


def name_of(dtype: torch.dtype) -> str:
    """Its name in torch, as in "bfloat16"."""
    return str(dtype).removeprefix("torch.")
