"""What is said of GPUs, numbers, attention and compilers, by values."""

import pytest
import torch

from tests.unit.model.test_gpu import machine
from yangtuo.diagnosis import hardware
from yangtuo.diagnosis.hardware import Device, Gpu, Gpus, of_attention, of_compiler, of_formats, of_gpus, of_torch
from yangtuo.model.processor import Hardware

__all__ = ["machine"]

GIB = 1 << 30
H200 = Gpu("NVIDIA H200", (9, 0), 139 * GIB, 140 * GIB)
WRONG = "this machine has an NVIDIA GPU (driver 535), and torch is a build for CPUs; pip install torch; or --use_cpu"


@pytest.mark.parametrize(
    ("cuda", "hip", "says"),
    [(None, None, "for CPUs"), ("13.0", None, "for NVIDIA GPUs (CUDA 13.0)"), (None, "7.1", "for AMD GPUs (ROCm 7.1)")],
)
def test_builds_of_torch(cuda, hip, says):
    assert of_torch("2.13.0", cuda, hip).found == f"2.13.0, a build {says}"


@pytest.mark.parametrize(
    ("found", "kind", "expected"),
    [
        (Gpus(), "cpu", [("ok", "none; a run trains on the CPU", "")]),
        (
            Gpus([H200], driver="580.1"),
            "cuda",
            [("ok", "NVIDIA H200, compute capability 9.0, driver 580.1, 139.0 GiB of 140.0 GiB free", "")],
        ),
        (Gpus([Gpu("A", (8, 0), GIB, 80 * GIB)]), "cuda", [("note", "1.0 GiB of 80.0 GiB free", "who has the rest")]),
        (Gpus([Gpu("A", (8, 0), fault="busy")]), "cuda", [("problem", "8.0: busy", "who uses it")]),
        (
            Gpus([H200, H200]),
            "cuda",
            [("ok", "", ""), ("ok", "", ""), ("note", "2 GPUs are visible", "torchrun --nproc_per_node 2")],
        ),
        (
            Gpus(unusable=WRONG),
            "cpu",
            [("problem", "(driver 535), and torch is a build for CPUs", "pip install torch; or")],
        ),
        (
            Gpus(unusable=WRONG, has_device_files=False),
            "cpu",
            [("problem", "a build for CPUs", "in a container, start it with GPUs (docker run --gpus all); else pip")],
        ),
        (
            Gpus(unusable=WRONG, listed=["Tesla V100, 16 GiB"]),
            "cpu",
            [("problem", "(nvidia-smi: Tesla V100, 16 GiB)", "p")],
        ),
        (Gpus(listed=["A100, 80 GiB"]), "cpu", [("note", "nvidia-smi lists A100", "torch.cuda.init")]),
        (Gpus(listed=["A100"], is_hidden=True), "cpu", [("note", "hidden by CUDA_VISIBLE_DEVICES", "unset")]),
        (Gpus(is_hidden=True), "cpu", [("ok", "none", "")]),
        (Gpus(is_on_bus=True), "cpu", [("note", "plugged in without a driver", "install NVIDIA's driver")]),
        (Gpus(), "npu", [("ok", "npu, by torch's common interface", "")]),
    ],
)
def test_gpus(found, kind, expected):
    findings = list(of_gpus(found, kind))
    assert [one.state for one in findings] == [state for state, *_ in expected]
    for one, (_, says, remedy) in zip(findings, expected, strict=True):
        assert says in one.found
        assert remedy in one.remedy
        assert bool(remedy) == bool(one.remedy)


@pytest.mark.parametrize(
    ("able", "state", "says"),
    [
        (Hardware("cpu", False, False), "ok", "none for training on this CPU"),
        (Hardware("cpu", True, False), "ok", "bfloat16 for training on this CPU; a base in bfloat16 is computed in X"),
        (Hardware("cpu", True, False, 0.5), "ok", "since bfloat16 has 0.50 of its speed here"),
        (Hardware("cuda", True, True), "ok", "bfloat16 and float16 for training on this GPU"),
        (Hardware("cuda", False, True), "note", "float16 for training"),
    ],
)
def test_sixteen_bit_numbers(able, state, says):
    found = of_formats(able, "X")
    assert found.state == state
    assert says in found.found
    assert bool(found.remedy) == (state == "note")


@pytest.mark.parametrize(
    ("kind", "has_varlen", "state", "says"),
    [("cpu", False, "ok", "in blocks"), ("cuda", True, "ok", "varlen_attn"), ("cuda", False, "note", "in blocks")],
)
def test_attention(kind, has_varlen, state, says):
    found = of_attention(kind, has_varlen=has_varlen, dtype="float32")
    assert (found.state, says in found.found) == (state, True)


@pytest.mark.parametrize(
    ("kind", "compiler", "has_triton", "has_headers", "missing"),
    [
        ("cpu", "/usr/bin/g++", False, True, []),
        ("cuda", "/usr/bin/gcc", True, True, []),
        ("cpu", None, False, True, ["apt install g++"]),
        ("cpu", "/usr/bin/g++", False, False, ["apt install python3-dev"]),
        ("cuda", None, False, False, ["g++", "python3-dev", "pip install triton"]),
    ],
)
def test_compiled_layers(kind, compiler, has_triton, has_headers, missing):
    found = of_compiler(kind, compiler=compiler, has_triton=has_triton, has_headers=has_headers)
    assert found.state == ("note" if missing else "ok")
    assert all(one in found.remedy for one in missing)


@pytest.mark.parametrize(
    ("device", "says"),
    [
        (Device("cpu", [], "float32"), "the CPU in float32"),
        (Device("cuda", ["NVIDIA H200"], "bfloat16"), "NVIDIA H200 in bfloat16"),
        (Device("cuda", ["A100"] * 8, "bfloat16"), "8 GPUs (A100), a process each, in bfloat16"),
        (Device("npu", [], "bfloat16"), "npu in bfloat16"),
    ],
)
def test_the_device_of_the_verdict(device, says):
    assert str(device) == says


def states(findings):
    return {one.name: one.state for one in findings}


def test_this_machine_as_it_is(caplog):
    device, findings = hardware.look()
    assert ("the CPU in " in str(device)) is not bool(device.names)
    assert all(name in str(device) for name in device.names[:1])
    assert "problem" not in states(findings).values()
    assert not caplog.records


def test_a_gpu_that_this_torch_cannot_use_stops_training_as_a_run_would(machine, monkeypatch):
    machine()
    monkeypatch.setattr(hardware, "_nvidia_smi", list)
    device, findings = hardware.look()
    (found,) = [one for one in findings if one.name == "GPU"]
    assert (device.kind, found.state) == ("cpu", "problem")
    assert "driver 535.183.01" in found.found
    assert found.remedy.endswith("or train on the CPU, which is far slower: --use_cpu")


def test_a_gpu_whose_memory_cannot_be_asked_for(monkeypatch):
    def busy(index):
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy\nor unavailable")

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "A")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (8, 0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", busy)
    assert hardware._gpu(0) == Gpu("A", (8, 0), fault="CUDA error: all CUDA-capable devices are busy or unavailable")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (1, 2))
    assert hardware._gpu(0) == Gpu("A", (8, 0), 1, 2)


@pytest.mark.parametrize(
    ("script", "rows"),
    [
        ("echo 'Tesla V100-SXM2-16GB, 16384 MiB, 535.183.01'", [["Tesla V100-SXM2-16GB", "16384 MiB", "535.183.01"]]),
        ("echo 'NVIDIA-SMI has failed because it could not communicate'; exit 9", []),
        ("echo 'No devices were found'", []),
    ],
)
def test_what_nvidia_smi_lists(tmp_path, monkeypatch, script, rows):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert hardware._nvidia_smi() == rows


def test_without_nvidia_smi_nothing_is_listed(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hardware._nvidia_smi() == []
    assert hardware._compiler("cpu") is None


@pytest.mark.parametrize(
    ("vendor", "kind", "is_one"),
    [("0x10de", "0x030200", True), ("0x10de", "0x040300", False), ("0x1002", "0x030000", False)],
)
def test_a_gpu_is_seen_on_the_bus_without_a_driver(tmp_path, vendor, kind, is_one):
    for name in ("0000:00:01.0", "0000:00:02.0"):
        (tmp_path / name).mkdir()
    (tmp_path / "0000:00:02.0" / "vendor").write_text(f"{vendor}\n")
    (tmp_path / "0000:00:02.0" / "class").write_text(f"{kind}\n")
    assert hardware._is_on_bus(tmp_path) == is_one
