"""NVIDIA GPUs that are in the machine and that the installed torch cannot use.

PyTorch's wheels are for some architectures and drivers only: 2.13's default (CUDA 13) has none for a V100 and needs
driver 580, a CPU wheel has none at all. torch then says that there is no GPU, or fails at the first operation.
"""

import os
import re
from pathlib import Path

import torch

from yangtuo.i18n import Message

_DRIVER = Path("/proc/driver/nvidia/version")  # there where NVIDIA's kernel module is loaded
_WSL_DRIVER = Path("/usr/lib/wsl/lib/libcuda.so.1")  # Windows' own, in WSL 2, where there is no such module
_OLDER = "pip install torch=={version}+cu126 --index-url https://download.pytorch.org/whl/cu126"


def unusable_gpu() -> str:
    """Why a GPU of this machine cannot be used, with the remedy; "" where there is none, or where it can."""
    if torch.cuda.is_available():
        wrong = [name for name, able in map(_able, range(torch.cuda.device_count())) if not able]
        return (
            Message(
                "this torch ({version}) has no code for {wrong}; {remedy}",
                version=torch.__version__,
                wrong=", ".join(wrong),
                remedy=_remedy(),
            )
            if wrong
            else ""
        )
    if is_hidden() or not has_driver() or torch.accelerator.is_available():
        return ""
    machine = Message(
        "this machine has an NVIDIA GPU (driver {driver_version})", driver_version=driver_version() or "unknown"
    )
    if torch.version.cuda is None:
        return Message(
            "{machine}, and torch {version} is a build for CPUs; {remedy}",
            machine=machine,
            version=torch.__version__,
            remedy=_remedy(),
        )
    cuda = Message("torch {version} (CUDA {cuda})", version=torch.__version__, cuda=torch.version.cuda)
    return Message(
        "{machine}, which {cuda} cannot use; update the driver, or: {remedy}",
        machine=machine,
        cuda=cuda,
        remedy=_remedy(),
    )


def is_hidden() -> bool:
    """Whether the environment keeps NVIDIA GPUs from this process."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")


def has_driver() -> bool:
    """Whether NVIDIA's driver is in this machine, or in the Windows around it."""
    return _DRIVER.is_file() or _WSL_DRIVER.is_file()


def driver_version() -> str:
    """As the kernel module tells; "" where there is none to ask, as in WSL."""
    told = _DRIVER.read_text(encoding="utf-8", errors="replace") if _DRIVER.is_file() else ""
    found = re.search(r"Kernel Module[^\d]*([\d.]+)", told)
    return found[1] if found else ""


def _remedy() -> str:
    return _OLDER.format(version=torch.__version__.partition("+")[0])


def _able(index: int) -> tuple[str, bool]:
    """The name of a GPU, and whether torch has code for it: of its own generation, or code to be translated for it."""
    major, minor = torch.cuda.get_device_capability(index)
    able = False
    for name in torch.cuda.get_arch_list():
        kind, _, number = name.partition("_")
        digits = re.match(r"\d+", number)
        if digits:
            built = divmod(int(digits.group()), 10)
            able = able or (kind == "sm" and built[0] == major and built[1] <= minor)
            able = able or (kind == "compute" and built <= (major, minor))
    return torch.cuda.get_device_name(index), able or not torch.cuda.get_arch_list()
