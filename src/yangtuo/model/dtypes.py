"""Dtypes of weights: their names, and how far a value moves when it is rounded to one."""

import torch

from yangtuo.i18n import Listed, Message, gettext_noop

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


def replaced(weights: tuple[torch.dtype, torch.dtype], compute: tuple[torch.dtype, torch.dtype]) -> str:
    """What is said of dtypes, each a pair of the one used and the one asked for; "" where they are the same."""
    pairs = {gettext_noop("{used} instead of {asked}"): weights}
    if weights != compute:
        pairs = {
            gettext_noop("weights in {used} instead of {asked}"): weights,
            gettext_noop("computed in {used} instead of {asked}"): compute,
        }
    replaced = {what: pair for what, pair in pairs.items() if pair[0] is not pair[1]}
    told = [Message(what, used=name_of(used), asked=name_of(asked)) for what, (used, asked) in replaced.items()]
    return Listed(told, " and ")
