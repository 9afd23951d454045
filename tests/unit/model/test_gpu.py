"""GPUs that are there and cannot be used, on a machine that has none: torch's answers are given."""

import pytest
import torch

from yangtuo.errors import UsageError
from yangtuo.model import gpu
from yangtuo.model.base import _place
from yangtuo.model.processor import detect_hardware

DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12\nGCC version: 12\n"
ARCHITECTURES = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with a driver, and torch as it is told to be."""
    (tmp_path / "version").write_text(DRIVER)
    monkeypatch.setattr(gpu, "_DRIVER", tmp_path / "version")
    monkeypatch.setattr(gpu, "_WSL_DRIVER", tmp_path / "none")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: torch.cuda.is_available())

    def made(*, cuda="13.0", devices=(), architectures=ARCHITECTURES):
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(devices))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(devices))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: devices[i][1])
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: devices[i][0])
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: architectures)

    return made


def test_a_driver_that_is_too_old_for_the_wheel_is_named_with_the_wheel_that_fits(machine):
    machine()
    assert gpu.unusable_gpu().startswith("this machine has an NVIDIA GPU (driver 535.183.01), which torch 2.13.0")
    assert "(CUDA 13.0) cannot use; update the driver, or: pip install torch==2.13.0+cu126" in gpu.unusable_gpu()


def test_a_wheel_for_cpus_beside_a_gpu_is_named(machine):
    machine(cuda=None)
    assert "is a build for CPUs; pip install torch==2.13.0+cu126 --index-url " in gpu.unusable_gpu()


def test_a_gpu_of_windows_is_seen_in_wsl(machine, monkeypatch, tmp_path):
    machine(cuda=None)
    monkeypatch.setattr(gpu, "_DRIVER", tmp_path / "none")
    assert gpu.unusable_gpu() == ""
    (tmp_path / "libcuda.so.1").touch()
    monkeypatch.setattr(gpu, "_WSL_DRIVER", tmp_path / "libcuda.so.1")
    assert gpu.unusable_gpu().startswith("this machine has an NVIDIA GPU (driver unknown), and torch 2.13.0")


@pytest.mark.parametrize(
    ("capability", "able"),
    [
        ((7, 0), False),
        ((6, 1), False),
        ((7, 5), True),
        ((8, 9), True),
        ((9, 0), True),
        ((12, 1), True),
        ((13, 0), True),
    ],
)
def test_a_gpu_is_usable_with_code_of_its_generation_or_code_to_be_translated(machine, capability, able):
    machine(devices=[("Tesla", capability)])
    assert (gpu.unusable_gpu() == "") == able
    if not able:
        assert "has no code for Tesla; pip install torch==2.13.0+cu126" in gpu.unusable_gpu()


def test_without_a_gpu_or_with_one_that_is_hidden_there_is_nothing_to_say(machine, monkeypatch, tmp_path):
    machine()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu.unusable_gpu() == ""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert gpu.unusable_gpu()
    monkeypatch.setattr(gpu, "_DRIVER", tmp_path / "none")
    assert gpu.unusable_gpu() == ""


def test_a_run_does_not_train_on_the_cpu_beside_a_gpu_without_being_told_to(machine):
    machine()
    with pytest.raises(UsageError, match=r"cannot use; update the driver.*; or train on the CPU.*: --use_cpu"):
        detect_hardware(use_cpu=False)
    assert detect_hardware(use_cpu=True).device == "cpu"


# ---- where weights go


@pytest.mark.parametrize(
    ("device", "is_quantised", "expected"),
    [
        (None, False, {}),
        (torch.device("cpu"), False, {}),
        (torch.device("cpu"), True, {"device_map": {"": "cpu"}}),
        (None, True, {"device_map": {"": "cpu"}}),
        (torch.device("cuda", 1), False, {"device_map": {"": "cuda:1"}}),
        (torch.device("cuda"), False, {"device_map": {"": "cuda:3"}}),
        (torch.device("xpu", 0), True, {"device_map": {"": "xpu:0"}}),
    ],
)
def test_weights_go_straight_to_the_device(device, is_quantised, expected, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 3)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert _place(device, is_quantised=is_quantised) == expected
