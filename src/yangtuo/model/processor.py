"""What the processor that trains can do, and the precision of a run by it."""

import logging
import math
from dataclasses import dataclass

import torch

from yangtuo.errors import UsageError
from yangtuo.i18n import Message
from yangtuo.model import dtypes
from yangtuo.model.dtypes import name_of
from yangtuo.model.gpu import unusable_gpu

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hardware:
    """What the processor that trains can do.

    Attributes:
        device: cpu, cuda, npu, xpu, mps, ...
        bfloat16: it multiplies bfloat16 matrices natively; emulation is 26 times slower than float32 on a CPU.
        float16: it trains in float16 with a loss scaler.
        bfloat16_rate: of products in bfloat16, by that in float32, where it is known: Intel's AVX-512 without AMX has
            half of it.
    """

    device: str
    bfloat16: bool
    float16: bool
    bfloat16_rate: float = math.inf


def detect_hardware(use_cpu: bool) -> Hardware:
    """What is here; `use_cpu` hides an accelerator.

    Raises:
        UsageError: a GPU is here that this torch cannot use, and `use_cpu` does not say to go on without it.
    """
    if not use_cpu and (why := unusable_gpu()):
        raise UsageError("{why}; or train on the CPU, which is far slower: --use_cpu", why=why)
    if use_cpu or not torch.accelerator.is_available():
        able = torch.cpu.get_capabilities()
        return Hardware("cpu", bool(able.get("amx_bf16") or able.get("avx512_bf16") or able.get("sve_bf16")), False)
    device = torch.accelerator.current_accelerator()
    kind = device.type if device else "cpu"
    if kind == "cuda":
        return Hardware(kind, torch.cuda.is_bf16_supported(including_emulation=False), True)
    return Hardware(kind, kind != "mps", kind != "mps")


@dataclass(frozen=True)
class Precision:
    """`weights`: dtype of the frozen base. `bf16`/`fp16`: autocast in the forward, at most one of them."""

    weights: torch.dtype
    bf16: bool = False
    fp16: bool = False


def choose_precision(
    torch_dtype: str | None, *, fp16: bool, bf16: bool, stored: torch.dtype | None, hardware: Hardware
) -> Precision:
    """The precision of a run: what was asked for where the hardware trains well in it, else the nearest.

    Args:
        torch_dtype: the option; None and "auto" mean as stored.
        fp16: the flag `--fp16`.
        bf16: the flag `--bf16`.
        stored: dtype of the weights on disk, None where config.json does not say.
        hardware: what the processor can do.

    Raises:
        UsageError: both flags at once, or an unknown dtype.
    """
    if fp16 and bf16:
        raise UsageError("--fp16 and --bf16: give one of them")
    name = (torch_dtype or "auto").removeprefix("torch.")
    weights = stored or torch.float32 if name == "auto" else dtypes.named(name)
    if weights is None:
        raise UsageError(
            "--torch_dtype {torch_dtype}: expected auto, float32, bfloat16 or float16", torch_dtype=torch_dtype
        )
    asked = torch.float16 if fp16 else torch.bfloat16 if bf16 else weights
    is_free = name == "auto" and not fp16 and not bf16
    if is_free and weights is torch.bfloat16 and hardware.bfloat16 and hardware.bfloat16_rate < 1:
        logger.warning(
            "precision: float32 instead of bfloat16 weights (this %s multiplies them at %.2f of the speed; --bf16 "
            "computes in it, in half the memory)",
            hardware.device.upper(),
            hardware.bfloat16_rate,
        )
        return Precision(torch.float32)
    compute = _nearest(asked, hardware)
    if compute is torch.float32 and hardware.device == "cpu":
        # 16-bit weights would be widened again in every matrix product.
        if weights is not torch.float32 or asked is not torch.float32:
            wish = "--fp16" if fp16 else "--bf16" if bf16 else Message("{dtype} weights", dtype=name_of(weights))
            logger.warning("precision: float32 instead of %s (16-bit numbers are not native on this CPU)", wish)
        return Precision(torch.float32)
    nearest = _nearest(weights, hardware)
    replaced = dtypes.replaced((nearest, weights), (compute, asked))
    if replaced:
        device = hardware.device.upper()
        if nearest is weights and nearest is not compute:
            logger.warning(
                "precision: %s, since this %s cannot train in the latter; the base stays in %s",
                replaced,
                device,
                name_of(nearest),
            )
        else:
            logger.warning("precision: %s, since this %s cannot train in the latter", replaced, device)
    if {compute, nearest} == {torch.float16, torch.bfloat16}:
        given, used = name_of(nearest), name_of(compute)
        logger.warning(
            "precision: each product turns %s weights into %s; --torch_dtype %s does it once", given, used, used
        )
    return Precision(nearest, bf16=compute is torch.bfloat16, fp16=compute is torch.float16)


def _nearest(asked: torch.dtype, hardware: Hardware) -> torch.dtype:
    able = {torch.float32: True, torch.bfloat16: hardware.bfloat16, torch.float16: hardware.float16}
    if able[asked]:
        return asked
    for other in (torch.bfloat16, torch.float16):
        if able[other]:
            return other
    return torch.float32


def computed_in(precision: Precision) -> torch.dtype:
    """The dtype of the forward."""
    return torch.bfloat16 if precision.bf16 else torch.float16 if precision.fp16 else precision.weights
