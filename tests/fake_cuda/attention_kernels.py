"""Which kernel torch's scaled_dot_product_attention takes on a CUDA device, by capability and arguments.

Modelled on `sdp_utils.cpp` of torch 2.13, with cuDNN switched off as training switches it off:

- flash attention: 16 bit, compute capability 8.0 or later, at most 256 wide, no mask; heads may share keys.
- memory-efficient: 16 bit (bfloat16 from 8.0 on) or float32, with or without a mask; a key for each head.
- otherwise plain mathematics, whose products of all pairs are kept for the backward.

The first two are one operation here, `fake_cuda::attention`.
"""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch.nn import functional


@torch.library.custom_op("fake_cuda::attention", mutates_args=())
def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Result [B, H, L, E] and the log-sum-exp of each query."""
    raise NotImplementedError("for fake tensors only")


@attention.register_fake
def _(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    batch, heads, length, _ = q.shape
    result = q.new_empty(batch, length, heads, v.shape[-1]).transpose(1, 2)
    return result, q.new_empty(batch, heads, length, dtype=torch.float32)


@torch.library.custom_op("fake_cuda::attention_backward", mutates_args=())
def attention_backward(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, result: torch.Tensor, lse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k and v."""
    raise NotImplementedError("for fake tensors only")


@attention_backward.register_fake
def _(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, result: torch.Tensor, lse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _keep(ctx: Any, inputs: tuple[torch.Tensor, ...], output: tuple[torch.Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs, *output)


def _backward(ctx: Any, grad: torch.Tensor, _: Any) -> tuple[torch.Tensor, ...]:
    gradients: tuple[torch.Tensor, ...] = torch.ops.fake_cuda.attention_backward(grad, *ctx.saved_tensors)
    return gradients


attention.register_autograd(_backward, setup_context=_keep)


def _is_fused(q: torch.Tensor, mask: torch.Tensor | None, capability: tuple[int, int], *, shares_keys: bool) -> bool:
    is_ampere = capability >= (8, 0)
    flash = is_ampere and q.dtype in (torch.bfloat16, torch.float16) and q.shape[-1] <= 256 and mask is None
    return flash or (not shares_keys and (is_ampere or q.dtype is not torch.bfloat16))


@contextlib.contextmanager
def of(capability: tuple[int, int]) -> Iterator[None]:
    """Have torch's function choose as on a device of that capability, for tensors of CUDA."""
    original = functional.scaled_dot_product_attention

    def chosen(  # torch decides what it is called with
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        how: tuple[Any, ...] = (attn_mask, dropout_p, is_causal)
        if not query.is_cuda:
            return original(query, key, value, *how, scale=scale, enable_gqa=enable_gqa)
        if torch.is_autocast_enabled("cuda"):
            dtype = torch.get_autocast_dtype("cuda")
            query, key, value = (tensor.to(dtype) for tensor in (query, key, value))
        with torch.autocast("cuda", enabled=False):
            if _is_fused(query, attn_mask, capability, shares_keys=enable_gqa):
                return torch.ops.fake_cuda.attention(query, key, value)[0]
            plain = torch.ops.aten._scaled_dot_product_attention_math
            return plain(query, key, value, *how, scale=scale, enable_gqa=enable_gqa)[0]

    with mock.patch.object(functional, "scaled_dot_product_attention", chosen):
        yield
