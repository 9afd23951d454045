"""Weights of which an engine keeps only a part in each process (DeepSpeed ZeRO-3, FSDP)."""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


def is_sharded(weight: torch.Tensor) -> bool:
    """Whether only a part of it is here; then only whole module calls, or the functions below, may touch it."""
    return hasattr(weight, "ds_id") or isinstance(weight, DTensor)


def shape_of(weight: torch.Tensor) -> tuple[int, ...]:
    """The shape of the whole; ZeRO-3 leaves an empty tensor in its place, 4-bit quantisation a packed one."""
    state = getattr(weight, "quant_state", None)
    return tuple(getattr(weight, "ds_shape", weight.shape) if state is None else state.shape)


def whole(weight: torch.Tensor) -> torch.Tensor:
    """Its values, from all processes; where it is sharded, all of them have to call this."""
    if isinstance(weight, DTensor):
        full: torch.Tensor = weight.full_tensor()
        return full.detach()
    if hasattr(weight, "ds_id"):
        with gathered([weight]):
            return weight.detach().clone()
    return weight.detach()


def reshard(model: nn.Module) -> None:
    """Give back what a forward without a backward has left whole (FSDP2); nothing elsewhere.

    To be called on all processes before only some of them write: PEFT's and torch's ways to name tensors give it back
    where they run, and processes that differ in it meet in different collectives at the next forward.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def gathered(weights: Sequence[torch.Tensor], *, writes: bool = False) -> contextlib.AbstractContextManager[Any]:
    """A context in which weights of ZeRO-3 are whole; with `writes`, rank 0's values stay. Others are whole anyway."""
    if not any(hasattr(weight, "ds_id") for weight in weights):
        return contextlib.nullcontext()
    import deepspeed

    context: contextlib.AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(
        list(weights), modifier_rank=0 if writes else None
    )
    return context
