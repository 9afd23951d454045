"""The processes of a run: how many there are, what they have to agree on, and whether the engine knows of them all."""

import os

import torch
from accelerate import Accelerator

from yangtuo.errors import UsageError


def world_size() -> int:
    """Number of processes, as torchrun tells."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def agree(number: int) -> int:
    """The number that rank 0 has. Each machine's launch script draws its own `--seed $RANDOM`, for one."""
    if not torch.distributed.is_initialized():
        return number
    box: list[int] = [number]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def check_engine(accelerator: Accelerator, num_gpus: int, *, deepspeed: bool, fsdp: bool) -> None:
    """Compare the engine that accelerate chose with the one asked for.

    Several set-ups otherwise run another engine, or each process alone, and end with success.

    Raises:
        UsageError: they differ.
    """
    wanted = world_size()
    kind = str(accelerator.distributed_type.value)
    if accelerator.num_processes != wanted:
        raise UsageError(f"{wanted} processes were started, but the engine sees {accelerator.num_processes}")
    engines = ["DEEPSPEED"] if deepspeed else ["FSDP"] if fsdp else ["MULTI"] if wanted > 1 else ["NO", "MULTI"]
    if not any(kind.startswith(engine) for engine in engines):
        raise UsageError(f"asked for {engines[0]}, but accelerate chose {kind}; unset ACCELERATE_* variables")
    if num_gpus > 1:
        raise UsageError(
            f"{num_gpus} GPUs are visible to one process; start one process a GPU "
            f"(torchrun --nproc_per_node {num_gpus} ...), or choose one with CUDA_VISIBLE_DEVICES=0"
        )
