"""What this machine's processors can do for training: GPUs, 16-bit numbers, attention, compiled layers.

Imports torch and transformers, so it is imported once it is known that they can be.
"""

import csv
import logging
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers.integrations import get_available_reporting_integrations

from yangtuo.diagnosis.finding import Finding, note, ok, problem, size
from yangtuo.engine import attention, flops
from yangtuo.engine.processes import check_one_gpu
from yangtuo.errors import UsageError, one_line
from yangtuo.i18n import Listed, Message
from yangtuo.model import gpu
from yangtuo.model.dtypes import name_of
from yangtuo.model.processor import Hardware, choose_precision, computed_in, detect_hardware

_PROCESSORS = {"cpu": "CPU", "cuda": "GPU"}
_PCI = Path("/sys/bus/pci/devices")
_NVIDIA, _DISPLAY = "0x10de", "0x03"  # the vendor, and the first digits of a graphics device's class


@dataclass(frozen=True)
class Gpu:
    """One that torch can use; memory in bytes, `fault` where torch cannot ask for it."""

    name: str
    capability: tuple[int, int]
    free: int = 0
    total: int = 0
    fault: str = ""


@dataclass(frozen=True)
class Gpus:
    """What is known of this machine's NVIDIA GPUs.

    Attributes:
        usable: by torch.
        unusable: what a training run says of one that is here and cannot be used, "" where there is none.
        listed: what nvidia-smi lists, a line each.
        driver: its version, "" where unknown.
        is_hidden: the environment keeps them from this process.
        has_device_files: the system has files for them; a container may lack those.
        is_on_bus: one is plugged in, with a driver or without.
    """

    usable: Sequence[Gpu] = ()
    unusable: str = ""
    listed: Sequence[str] = ()
    driver: str = ""
    is_hidden: bool = False
    has_device_files: bool = True
    is_on_bus: bool = False


def of_torch(version: str, cuda: str | None, hip: str | None) -> Finding:
    """Of the build of torch."""
    if hip:
        return ok("torch", Message("{version}, a build for AMD GPUs (ROCm {hip})", version=version, hip=hip))
    if cuda:
        return ok("torch", Message("{version}, a build for NVIDIA GPUs (CUDA {cuda})", version=version, cuda=cuda))
    return ok("torch", Message("{version}, a build for CPUs", version=version))


def of_gpus(found: Gpus, kind: str) -> Iterator[Finding]:
    """Of each GPU; `kind` is torch's word for the device that a run would use."""
    if found.unusable:
        yield _of_unusable(found)
    elif found.usable:
        for index, one in enumerate(found.usable):
            yield _of_gpu(index, one, found.driver)
        try:
            check_one_gpu(len(found.usable))
        except UsageError as error:
            yield note(Message("several GPUs"), *_parts(str(error)))
    elif kind != "cpu":
        yield ok(
            "accelerator", Message("{kind}, by torch's common interface; yangtuo was never tried on one", kind=kind)
        )
    elif found.is_hidden and (found.listed or found.driver):
        yield note(
            "GPU", Message("hidden by CUDA_VISIBLE_DEVICES; a run trains on the CPU"), "unset CUDA_VISIBLE_DEVICES"
        )
    elif found.listed:
        remedy = Message("see what this prints: python -c 'import torch; torch.cuda.init()'")
        yield note(
            "GPU",
            Message(
                "nvidia-smi lists {listed}, and torch sees none: a run would train on the CPU",
                listed="; ".join(found.listed),
            ),
            remedy,
        )
    elif found.is_on_bus:
        remedy = Message(
            "install NVIDIA's driver (on Ubuntu: ubuntu-drivers install) and restart; nvidia-smi then lists it"
        )
        yield note("GPU", Message("an NVIDIA GPU is plugged in without a driver: a run would train on the CPU"), remedy)
    else:
        yield ok("GPU", Message("none; a run trains on the CPU"))


def _of_unusable(found: Gpus) -> Finding:
    what, remedy = _parts(found.unusable)
    if not found.has_device_files:
        remedy = Message("in a container, start it with GPUs (docker run --gpus all); else {remedy}", remedy=remedy)
    return problem(
        "GPU",
        Message("{what} (nvidia-smi: {listed})", what=what, listed="; ".join(found.listed)) if found.listed else what,
        remedy,
    )


def _parts(text: str) -> tuple[str, str]:
    """What was found, and what to do, of a message in the form of this program."""
    found, _, remedy = text.partition("; ")
    return found, remedy


def _of_gpu(index: int, one: Gpu, driver: str) -> Finding:
    name, (major, minor) = f"GPU {index}", one.capability
    capability = Message("compute capability {capability}", capability=f"{major}.{minor}")
    parts = [one.name, capability, *([Message("driver {version}", version=driver)] if driver else [])]
    known = Listed(parts)
    if one.fault:
        return problem(
            name,
            Message("{known}: {fault}", known=known, fault=one.fault),
            Message("nvidia-smi shows who uses it; or CUDA_VISIBLE_DEVICES of another"),
        )
    told = Message("{known}, {free} of {total} free", known=known, free=size(one.free), total=size(one.total))
    if one.free < one.total / 2:
        return note(name, told, Message("nvidia-smi shows who has the rest; or CUDA_VISIBLE_DEVICES of another"))
    return ok(name, told)


def of_formats(hardware: Hardware, used: str) -> Finding:
    """Of 16-bit numbers; `used` is the dtype in which a run computes a base that is stored in bfloat16."""
    able = {"bfloat16": hardware.bfloat16, "float16": hardware.float16}
    names = [name for name, is_able in able.items() if is_able]
    has = Listed(names, " and ") if names else Message("none")
    processor = _PROCESSORS.get(hardware.device, hardware.device)
    told = Message(
        "{has} for training on this {processor}; a base in bfloat16 is computed in {used}",
        has=has,
        processor=processor,
        used=used,
    )
    if hardware.bfloat16_rate < 1:
        told = Message(
            "{told}, since bfloat16 has {rate:.2f} of its speed here (--bf16 computes in it, in half the memory)",
            told=told,
            rate=hardware.bfloat16_rate,
        )
    if hardware.device == "cuda" and not hardware.bfloat16:
        return note(
            Message("16-bit numbers"),
            told,
            Message("should a loss overflow: --torch_dtype float32; GPUs from Ampere on have bfloat16"),
        )
    return ok(Message("16-bit numbers"), told)


def of_attention(kind: str, *, has_varlen: bool, dtype: str) -> Finding:
    """Of the way in which rows go through attention."""
    if has_varlen:
        return ok(Message("attention"), Message("rows end to end, by torch's flash kernel (varlen_attn)"))
    told = Message("rows of like lengths in blocks, by torch's scaled_dot_product_attention in {dtype}", dtype=dtype)
    if kind != "cuda":
        return ok(Message("attention"), told)
    remedy = Message(
        "the kernel for rows end to end is for GPUs from Ampere on (compute capability 8.0) and for 16 bits"
    )
    return note(Message("attention"), told, remedy)


def of_compiler(kind: str, *, compiler: str | None, has_triton: bool, has_headers: bool) -> Finding:
    """Of what `--torch_compile` needs; `compiler` is the path of one for C++, or for C on a GPU."""
    missing = [
        *([] if compiler else [Message("a C++ compiler (Debian and Ubuntu: apt install g++)")]),
        *([] if has_headers else [Message("Python's headers (Debian and Ubuntu: apt install python3-dev)")]),
        *([] if has_triton or kind == "cpu" else ["triton (pip install triton)"]),
    ]
    if missing:
        remedy = Message(
            "install {missing}; nothing is to be done without --torch_compile, which needs them",
            missing=Listed(missing),
        )
        return note(Message("compile"), Message("--torch_compile cannot work here"), remedy)
    has = str(compiler) if kind == "cpu" else f"{compiler}, triton"
    return ok(Message("compile"), Message("--torch_compile has what it needs ({has})", has=has))


@dataclass(frozen=True)
class Device:
    """What a run would train on.

    Attributes:
        kind: torch's word.
        names: of the GPUs.
        dtype: in which a base in bfloat16 is computed.
    """

    kind: str
    names: Sequence[str]
    dtype: str

    def __str__(self) -> str:
        return self.told()

    def told(self) -> Message:
        """As the verdict has it."""
        kinds, number = ", ".join(dict.fromkeys(self.names)), len(self.names)
        if self.kind == "cpu":
            return Message("the CPU in {dtype}", dtype=self.dtype)
        if number > 1:
            values = {"number": number, "kinds": kinds, "dtype": self.dtype}
            return Message("{number} GPUs ({kinds}), a process each, in {dtype}", **values)
        return Message("{kind} in {dtype}", kind=kinds or self.kind, dtype=self.dtype)


def look() -> tuple[Device, list[Finding]]:
    """All of it, of this machine."""
    unusable = ""
    try:
        hardware = detect_hardware(use_cpu=False)
    except UsageError as error:
        unusable, hardware = error.text, detect_hardware(use_cpu=True)
    if hardware.device == "cpu" and hardware.bfloat16:
        hardware = replace(hardware, bfloat16_rate=flops.bfloat16_rate())
    found = _gpus(unusable) if hardware.device in ("cpu", "cuda") else Gpus()
    dtype = _computed_in(hardware)
    device = Device(hardware.device, [one.name for one in found.usable], name_of(dtype))
    has_varlen = attention.has_varlen(torch.device(hardware.device), dtype)
    has_headers = Path(sysconfig.get_path("include"), "Python.h").is_file()
    has_triton = find_spec("triton") is not None
    return device, [
        of_torch(torch.__version__, torch.version.cuda, torch.version.hip),
        *of_gpus(found, hardware.device),
        of_formats(hardware, name_of(dtype)),
        of_attention(hardware.device, has_varlen=has_varlen, dtype=name_of(dtype)),
        of_compiler(
            hardware.device, compiler=_compiler(hardware.device), has_triton=has_triton, has_headers=has_headers
        ),
    ]


def takes_trackers() -> list[str]:
    """The trackers that this transformers takes in the versions that are installed."""
    return list(get_available_reporting_integrations())


def _computed_in(hardware: Hardware) -> torch.dtype:
    """The dtype of a run without options; what the choice logs is said by the finding."""
    logger = logging.getLogger("yangtuo.model.processor")
    was, logger.disabled = logger.disabled, True
    try:
        precision = choose_precision(None, fp16=False, bf16=False, stored=torch.bfloat16, hardware=hardware)
    finally:
        logger.disabled = was
    return computed_in(precision)


def _gpus(unusable: str) -> Gpus:
    usable = [] if unusable or not torch.cuda.is_available() else [_gpu(i) for i in range(torch.cuda.device_count())]
    rows = _nvidia_smi()
    return Gpus(
        usable=usable,
        unusable=unusable,
        listed=[f"{name}, {memory}" for name, memory, _ in rows],
        driver=gpu.driver_version() or next((driver for *_, driver in rows), ""),
        is_hidden=gpu.is_hidden(),
        has_device_files=any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists(),  # the latter in WSL 2
        is_on_bus=_is_on_bus(_PCI),
    )


def _gpu(index: int) -> Gpu:
    name, capability = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
    try:
        return Gpu(name, capability, *torch.cuda.mem_get_info(index))
    except RuntimeError as error:  # one that another program has for itself alone, or whose memory is full
        return Gpu(name, capability, fault=one_line(error, 200))


def _nvidia_smi() -> list[list[str]]:
    """Name, memory and driver of each GPU, as NVIDIA's own program lists them; nothing without it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, errors="replace", timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [[field.strip() for field in row] for row in csv.reader(done.stdout.splitlines())]
    return [row for row in rows if len(row) == 3] if done.returncode == 0 else []


def _is_on_bus(devices: Path) -> bool:
    for device in devices.glob("*"):
        try:
            vendor, kind = ((device / name).read_text(encoding="ascii").strip() for name in ("vendor", "class"))
        except OSError:
            continue
        if vendor == _NVIDIA and kind.startswith(_DISPLAY):
            return True
    return False


def _compiler(kind: str) -> str | None:
    """The one that torch or triton would call."""
    usual = ("g++", "clang++") if kind == "cpu" else ("gcc", "clang", "cc")
    if sys.platform == "win32":
        usual = ("cl",)
    names = [os.environ.get("CXX" if kind == "cpu" else "CC", ""), *usual]
    return next(filter(None, (shutil.which(name) for name in names if name)), None)
