"""A CUDA device that is not there, for torch's FakeTensorMode on a CPU build: forward and backward.

Nothing is computed and nothing is allocated. Shapes, dtypes, devices, operations and the sizes of storages are those
that CUDA would have. What autograd asks of a device lies in `fake_cuda.cpp`, which is compiled once and stays in the
process that loads it; so a process with a fake device should do nothing else.
"""

import contextlib
import ctypes
import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _foreach_utils

from tests.fake_cuda import attention_kernels

SOURCE = Path(__file__).with_name("fake_cuda.cpp")
_KNOWN_TYPES = _foreach_utils._foreach_supported_types
DEVICE = "cuda:0"  # always with its index: a fake tensor on "cuda" asks for the current device


def why_not() -> str:
    """Why this machine cannot have a fake device; "" where it can."""
    if torch.version.cuda is not None:
        return "this torch is built for CUDA and has a device guard of its own"
    return "" if shutil.which("g++") else "no g++ here, which compiles fake_cuda.cpp"


def build(folder: Path) -> Path:
    """Compile the library into a folder, unless it is there already; named after its source and torch's version."""
    identity = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    library = folder / f"fake_cuda-{identity}.so"
    if not library.is_file():
        place = Path(torch.__file__).parent
        draft = library.with_suffix(".draft")
        command = ["g++", "-shared", "-fPIC", "-std=c++20", f"-I{place / 'include'}", f"-L{place / 'lib'}"]
        subprocess.run([*command, "-o", str(draft), str(SOURCE), "-ltorch_cpu", "-lc10"], check=True)
        draft.replace(library)
    return library


def load(library: Path) -> None:
    """Give this process the device, for good."""
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


@contextlib.contextmanager
def fake_device(capability: tuple[int, int], used_bytes: Callable[[], int], total_bytes: int) -> Iterator[None]:
    """What Python code asks torch about the device, answered; `used_bytes` tells how much of its memory is taken."""
    has_bfloat16 = capability >= (8, 0)

    def memory_info(device: Any = None) -> tuple[int, int]:
        return total_bytes - used_bytes(), total_bytes

    def nothing(*args: Any, **kwargs: Any) -> None:
        pass

    of_cuda = {
        "is_available": lambda: True,
        "is_initialized": lambda: False,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_capability": lambda device=None: capability,
        "get_device_name": lambda device=None: "fake",
        "get_device_properties": lambda device=None: SimpleNamespace(total_memory=total_bytes),
        "get_arch_list": list,
        "is_bf16_supported": lambda including_emulation=True: has_bfloat16 or including_emulation,
        "mem_get_info": memory_info,
        **dict.fromkeys(("set_device", "empty_cache", "synchronize", "manual_seed", "manual_seed_all"), nothing),
    }
    of_accelerator = {
        "is_available": lambda: True,
        "current_accelerator": lambda check_available=False: torch.device("cuda"),
        "current_device_index": lambda: 0,
        "get_memory_info": memory_info,
        "memory_reserved": lambda device=None: used_bytes(),
        "memory_allocated": lambda device=None: used_bytes(),
        **dict.fromkeys(("synchronize", "empty_cache"), nothing),
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(torch.cuda, **of_cuda))
        stack.enter_context(mock.patch.multiple(torch.accelerator, **of_accelerator))
        stack.enter_context(mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False))
        stack.enter_context(mock.patch("torch._subclasses.fake_tensor.init_gpu_context", nothing))
        stack.enter_context(mock.patch.object(FakeTensorMode, "avoid_device_init", property(lambda mode: True)))
        stack.enter_context(mock.patch.object(nn.Module, "_apply", _replace_parameters))
        # Optimizers and clipping handle lists of tensors at once, where they know the tensors' type.
        stack.enter_context(mock.patch.object(_foreach_utils, "_foreach_supported_types", [*_KNOWN_TYPES, FakeTensor]))
        stack.enter_context(mock.patch.object(torch.Tensor, "pin_memory", lambda tensor: tensor))
        stack.enter_context(attention_kernels.of(capability))
        stack.enter_context(_one_kernel_for_silu())
        stack.enter_context(_fakes_only())
        yield


@contextlib.contextmanager
def _fakes_only() -> Iterator[None]:
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) is a CPU tensor that is copied, as it is
    try:
        # In one thread, so that modes and the recorder's stack hold in the backward too.
        with FakeTensorMode(allow_non_fake_inputs=True), torch.autograd.set_multithreading_enabled(False):
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


@contextlib.contextmanager
def _one_kernel_for_silu() -> Iterator[None]:
    """CUDA has a kernel for the gradient of SiLU; without one, torch would compose it of others."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("silu_backward", lambda grad, x: torch.empty_like(x), "CUDA")
    try:
        yield
    finally:
        library._destroy()


def _replace_parameters(self: nn.Module, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> nn.Module:
    """`nn.Module._apply` with new parameters: torch would swap tensors, which fake ones do not bear."""
    for child in self.children():
        child._apply(fn)
    for name, parameter in self._parameters.items():
        if parameter is not None:
            with torch.no_grad():
                applied = fn(parameter.data)
            if (applied.dtype, applied.device) != (parameter.dtype, parameter.device):
                self._parameters[name] = nn.Parameter(applied, requires_grad=parameter.requires_grad)
    for name, buffer in self._buffers.items():
        if buffer is not None:
            self._buffers[name] = fn(buffer)
    return self
