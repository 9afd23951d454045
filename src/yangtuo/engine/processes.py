"""The processes of a run: how they meet, what they have to agree on, and whether the engine knows of them all."""

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch.distributed.rendezvous import rendezvous

from yangtuo.errors import PeerLostError, UsageError, YangtuoError, differences, is_out_of_memory, one_line
from yangtuo.i18n import Listed, Message
from yangtuo.logs import rank, world_size

logger = logging.getLogger(__name__)

_LONG_S = 10.0  # a launcher's processes meet within a second or two


class Store(Protocol):
    """What is used here of torch's key-value store; its own type is not exported."""

    def clone(self) -> "Store":
        """The same store by a connection of its own."""

    def set(self, key: str, value: str) -> None:
        """Write."""

    def get(self, key: str) -> bytes:
        """Read; waits for the key."""

    def check(self, keys: list[str]) -> bool:
        """Whether all are there."""


def connect(device: str, *, backend: str | None, timeout_seconds: int, deepspeed: bool) -> Store | None:
    """Have the processes meet; returns the store that they share, None where there is one process.

    Done here and not by accelerate, which gives the time-out to a CPU's processes not at all, and for the store.

    Raises:
        UsageError: the environment names several processes and not where they meet.
        PeerLostError: not all of them came.
    """
    store = None
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if world_size() > 1 and missing:
        raise UsageError(
            "WORLD_SIZE={world_size} is in the environment without {missing}: start several processes with torchrun, "
            "which sets all of them, or unset WORLD_SIZE to train with one",
            world_size=world_size(),
            missing=", ".join(missing),
        )
    if device == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed, where installed, says that it looks for one
    if world_size() > 1 and not torch.distributed.is_initialized():
        if device != "cpu":
            # As accelerate does: under SLURM a process may see its own device alone, whatever its number.
            torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]) % torch.accelerator.device_count())
        timeout = timedelta(seconds=timeout_seconds)
        usual = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl", "npu": "hccl", "xpu": "xccl"}
        with peers_lost_are_named(Message("the meeting of all processes")), _waiting_is_told():
            store, number, size = next(rendezvous("env://", timeout=timeout))
            torch.distributed.init_process_group(
                backend or usual.get(device),
                store=torch.distributed.PrefixStore("yangtuo", store),  # type: ignore[attr-defined]
                rank=number,
                world_size=size,
                timeout=timeout,
            )
    if deepspeed:
        if "RANK" not in os.environ:  # no launcher: DeepSpeed would look for MPI's
            os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        if device == "cpu":
            _meet_in_deepspeed()
    return store


@contextlib.contextmanager
def _waiting_is_told() -> Iterator[None]:
    """Say who is waited for, and why: at once where no launcher has set the environment, else when it takes long."""
    of_launcher = "TORCHELASTIC_RUN_ID" in os.environ
    others, size = world_size() - 1, world_size()
    place = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
    text: str = Message(
        "rank {rank}: waiting for the other processes ({others} of {size}) at {place}",
        rank=rank(),
        others=others,
        size=size,
        place=place,
    )
    if not of_launcher:
        alone = Message("WORLD_SIZE={size} is in the environment; started alone, unset WORLD_SIZE and RANK", size=size)
        text = Listed([text, alone], "; ")
    # Of ranks but 0 only errors are shown, and this one may be the only process there is.
    timer = threading.Timer(
        _LONG_S if of_launcher else 0.0, logger.log, (logging.WARNING if rank() == 0 else logging.ERROR, text)
    )
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def _meet_in_deepspeed() -> None:
    """DeepSpeed's own meeting, before a model is divided by ZeRO-3: transformers leaves it out on a CPU.

    The one operator that DeepSpeed would compile on a CPU serves inference only. Without it no compiler is needed, and
    no lock of a build that was killed can make later runs wait for ever. Source: deepspeed 0.19.8, comm/torch.py.
    """
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False, verbose=False)


@contextlib.contextmanager
def peers_lost_are_named(what: str) -> Iterator[None]:
    """Turn the errors of torch's network code into one line."""
    try:
        yield
    except (torch.distributed.DistError, RuntimeError) as error:
        text = one_line(error)
        is_network = isinstance(error, torch.distributed.DistError) or any(
            word in text for word in ("gloo", "Gloo", "NCCL", "Connection reset", "Connection closed")
        )
        if world_size() == 1 or is_out_of_memory(error) or not is_network:
            raise
        raise PeerLostError(
            "{what}: another process is gone or unreachable, see its own message ({text}); with several network "
            "cards, set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the one that joins the machines",
            what=what,
            text=text[:160],
        ) from error


def agree(number: int) -> int:
    """The number that rank 0 has. Each machine's launch script draws its own `--seed $RANDOM`, for one."""
    result: int = from_rank_0(lambda: number)
    return result


def from_rank_0(function: Callable[[], Any]) -> Any:
    """What the function returns on rank 0, on all ranks; an error that it raises there is raised on all."""
    if not torch.distributed.is_initialized():
        return function()
    box: list[Any] = [None, None]
    if torch.distributed.get_rank() == 0:
        try:
            box[0] = function()
        except YangtuoError as error:
            box[1] = error
    torch.distributed.broadcast_object_list(box, src=0)
    if box[1] is not None:
        if torch.distributed.get_rank() > 0:
            box[1].is_second_hand = True
        raise box[1]
    return box[0]


def check_alike(found: Mapping[str, Any]) -> None:
    """Compare what each process has read from its own disk, before anything is computed together.

    Machines without a shared disk may have older copies, which would train each on data of its own.

    Args:
        found: JSON values by name; of files, their names and hashes.

    Raises:
        UsageError: on all ranks; what differs is named with both values, and the machine.
    """
    if not torch.distributed.is_initialized():
        return
    told: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(told, (name_of_host(), found))
    first_host, first = told[0]
    problems = [
        Message("rank {other} on {host}: {difference}", other=other, host=host, difference=difference)
        for other, (host, values) in enumerate(told)
        for difference in differences(
            first, values, Message("on rank 0 ({first_host})", first_host=first_host), Message("there")
        )
    ]
    if problems:
        error = UsageError.of_problems(
            Message(
                "processes have read different inputs; copy the same files to every machine, and start the same command"
            ),
            problems,
        )
        error.is_second_hand = torch.distributed.get_rank() > 0
        raise error


def largest(numbers: list[float], device: torch.device) -> list[float]:
    """The largest of each number over all ranks."""
    if not torch.distributed.is_initialized():
        return numbers
    where = _control_device(device)
    tensor = torch.tensor(numbers, dtype=torch.float64 if where.type != "mps" else torch.float32, device=where)
    torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
    return [float(value) for value in tensor]


def of_each(value: Any) -> list[Any]:
    """The value of each rank, on all ranks."""
    if not torch.distributed.is_initialized():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def _control_device(device: torch.device) -> torch.device:
    """Where what ranks tell each other lies: in main memory where gloo is there for it, so no kernel is waited for."""
    backends = torch.distributed.distributed_c10d.get_backend_config()
    return torch.device("cpu") if "cpu:" in backends else device


def share_tensors(tensors: Mapping[str, torch.Tensor] | None, device: torch.device) -> dict[str, torch.Tensor]:
    """Rank 0's tensors, on all ranks, in main memory; others give None."""
    shapes = from_rank_0(lambda: {name: (value.shape, value.dtype) for name, value in (tensors or {}).items()})
    result = {}
    for name, (shape, dtype) in shapes.items():
        value = torch.empty(shape, dtype=dtype) if tensors is None else tensors[name]
        if torch.distributed.is_initialized():
            moved = value.to(_control_device(device)).contiguous()
            torch.distributed.broadcast(moved, 0)
            value = moved.cpu()
        result[name] = value
    return result


def check_launch(environment: Mapping[str, str]) -> str | None:
    """A word about restarts that will not find each other again; None where all is well.

    Source: pytorch issue 135712; of nine restarts under the default settings of torch 2.13 two came through.
    """
    restarts = int(environment.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    if restarts == 0 or environment.get("TORCH_DISABLE_SHARE_RDZV_TCP_STORE") == "1":
        return None
    return Message(
        "restarts: under this launcher restarted processes often do not find each other; use "
        "run_sft.sh, or TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --rdzv_backend c10d ..."
    )


def check_engine(accelerator: Accelerator, *, deepspeed: bool, fsdp: bool) -> None:
    """Compare the engine that accelerate chose with the one asked for.

    Several set-ups otherwise run another engine, or each process alone, and end with success.

    Raises:
        UsageError: they differ.
    """
    wanted = world_size()
    kind = str(accelerator.distributed_type.value)
    if accelerator.num_processes != wanted:
        raise UsageError(
            "{wanted} processes were started, but the engine sees {num_processes}",
            wanted=wanted,
            num_processes=accelerator.num_processes,
        )
    engines = ["DEEPSPEED"] if deepspeed else ["FSDP"] if fsdp else ["MULTI"] if wanted > 1 else ["NO", "MULTI"]
    if not any(kind.startswith(engine) for engine in engines):
        raise UsageError(
            "asked for {engines}, but accelerate chose {kind}; unset ACCELERATE_* variables",
            engines=engines[0],
            kind=kind,
        )


def check_one_gpu(num_gpus: int) -> None:
    """Refuse a process that would have several devices, which transformers drives in a way of its own.

    Raises:
        UsageError: more than one is visible.
    """
    if num_gpus > 1:
        raise UsageError(
            "{num_gpus} GPUs are visible to one process; start one process a GPU (torchrun --nproc_per_node "
            "{num_gpus} ...), or choose one with CUDA_VISIBLE_DEVICES=0",
            num_gpus=num_gpus,
        )


def name_of_host() -> str:
    """For messages."""
    return socket.gethostname()
