from types import SimpleNamespace

import pytest
import torch

from yangtuo.engine import processes
from yangtuo.engine.processes import (
    agree,
    check_engine,
    check_launch,
    check_one_gpu,
    from_rank_0,
    largest,
    peers_lost_are_named,
    share_tensors,
)
from yangtuo.errors import PeerLostError, UsageError


def accelerator(kind, num_processes):
    return SimpleNamespace(distributed_type=SimpleNamespace(value=kind), num_processes=num_processes)


RIGHT = [
    ("NO", 1, {}),
    ("MULTI_CPU", 1, {}),  # torchrun with one process
    ("MULTI_CPU", 2, {}),
    ("MULTI_GPU", 2, {}),
    ("DEEPSPEED", 1, {"deepspeed": True}),
    ("DEEPSPEED", 2, {"deepspeed": True}),
    ("FSDP", 2, {"fsdp": True}),
]
WRONG = [  # reference/engines.md, G2: each of these ends with success if nobody looks
    ("MULTI_CPU", 2, {"deepspeed": True}, "asked for DEEPSPEED, but accelerate chose MULTI_CPU"),
    ("MULTI_CPU", 2, {"fsdp": True}, "asked for FSDP, but accelerate chose MULTI_CPU"),
    ("NO", 2, {}, "asked for MULTI, but accelerate chose NO"),
]


@pytest.mark.parametrize(("kind", "size", "asked"), RIGHT)
def test_the_engine_that_was_asked_for(kind, size, asked, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", str(size))
    check_engine(accelerator(kind, size), **{"deepspeed": False, "fsdp": False, **asked})


@pytest.mark.parametrize(("kind", "size", "asked", "message"), WRONG)
def test_another_engine_is_refused(kind, size, asked, message, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", str(size))
    with pytest.raises(UsageError, match=message):
        check_engine(accelerator(kind, size), **{"deepspeed": False, "fsdp": False, **asked})


def test_processes_that_do_not_know_of_each_other_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="2 processes were started, but the engine sees 1"):
        check_engine(accelerator("NO", 1), deepspeed=False, fsdp=False)


def test_several_gpus_in_one_process_are_refused(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(UsageError, match="one process a GPU"):
        check_one_gpu(2)


@pytest.mark.parametrize(
    ("environment", "warns"),
    [
        ({}, False),
        ({"TORCHELASTIC_MAX_RESTARTS": "0"}, False),
        ({"TORCHELASTIC_MAX_RESTARTS": "3"}, True),
        ({"TORCHELASTIC_MAX_RESTARTS": "3", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}, False),
        ({"TORCHELASTIC_MAX_RESTARTS": "3", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "0"}, True),
    ],
)
def test_restarts_that_will_not_meet_again(environment, warns):
    assert (check_launch(environment) is not None) is warns


def test_one_process_agrees_with_itself():
    device = torch.device("cpu")
    assert agree(7) == 7
    assert from_rank_0(lambda: "x") == "x"
    assert largest([1.0, 3.0], device) == [1.0, 3.0]
    tensors = {"a": torch.tensor([1.0])}
    assert torch.equal(share_tensors(tensors, device)["a"], tensors["a"])


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1"),
        torch.distributed.DistBackendError("NCCL communicator was aborted on rank 1"),
        torch.distributed.DistNetworkError("The client socket has timed out"),
    ],
)
def test_a_lost_peer(error, monkeypatch):
    monkeypatch.setattr(processes, "world_size", lambda: 2)
    with (
        pytest.raises(PeerLostError, match="training: another process is gone") as caught,
        peers_lost_are_named("training"),
    ):
        raise error
    assert caught.value.is_second_hand


@pytest.mark.parametrize(
    ("error", "size"),
    [
        (RuntimeError("shape mismatch"), 2),
        (torch.OutOfMemoryError("of the store"), 2),
        (RuntimeError("gloo"), 1),
        (ValueError("gloo"), 2),
    ],
)
def test_what_is_no_lost_peer_keeps_its_trace(error, size, monkeypatch):
    monkeypatch.setattr(processes, "world_size", lambda: size)
    with pytest.raises(type(error)) as caught, peers_lost_are_named("training"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("missing", ["RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_an_environment_that_does_not_say_where_processes_meet(missing, monkeypatch):
    values = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(missing)
    with pytest.raises(UsageError, match=f"WORLD_SIZE=2 is in the environment without {missing}: "):
        processes.connect("cpu", backend=None, timeout_seconds=1, deepspeed=False)
