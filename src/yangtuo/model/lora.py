"""LoRA on a linear layer as one autograd function, for layers whose weights are whole and plain.

The same arithmetic as PEFT's layer, y = W x + s B A dropout(x), in float32 or in a bfloat16 forward, in fewer passes
over memory: the input is kept once, not once more for each layer after dropout; the low-rank part is added into the
result in place; and dropout draws the gaps between dropped elements, p numbers an element instead of one.

Used through PEFT's interface for custom LoRA layers, so that names, formats and merging stay PEFT's.
"""

import math
from typing import Any, cast

import torch
from peft import LoraConfig
from peft.tuners.lora import Linear
from torch import nn
from torch.nn import functional


class FusedLinear(Linear):  # type: ignore[misc]
    """PEFT's LoRA layer with another way to compute the common case; everything else is PEFT's.

    `may_fuse` is False where PEFT's way is wanted in the common case too.
    """

    may_fuse = True

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """[..., in_features] -> [..., out_features]."""
        if args or kwargs or not (self.may_fuse and self.is_common_case()):
            return cast(torch.Tensor, super().forward(x, *args, **kwargs))
        name = self.active_adapters[0]
        dropout = self.lora_dropout[name]
        probability = dropout.p if isinstance(dropout, nn.Dropout) and self.training else 0.0
        rows = x.reshape(-1, x.shape[-1]).to(self.base_layer.weight.dtype).contiguous()
        result: torch.Tensor = _LoraLinear.apply(  # type: ignore[no-untyped-call]
            rows,
            self.base_layer.weight,
            self.base_layer.bias,
            self.lora_A[name].weight,
            self.lora_B[name].weight,
            self.scaling[name],
            dropped_places(rows.numel(), probability, x.device) if probability else None,
            probability,
        )
        return result.view(*x.shape[:-1], result.shape[-1])

    def is_common_case(self) -> bool:
        """Whether its weights are whole, plain, and on a CPU."""
        return (
            not self.disable_adapters
            and not self.merged
            and len(self.active_adapters) == 1
            and self.active_adapters[0] in self.lora_A
            and self.active_adapters[0] not in self.lora_variant
            and _is_computed_in(self.base_layer.weight.dtype, self.lora_A[self.active_adapters[0]].weight.dtype)
            and type(self.base_layer) is nn.Linear  # a descendant may compute otherwise
            and not (self.base_layer.bias is not None and self.base_layer.bias.requires_grad)
            and not self.lora_bias[self.active_adapters[0]]
            and self.base_layer.weight.device.type == "cpu"  # elsewhere kernels are cheap and waiting is not
            and not hasattr(self.base_layer.weight, "ds_id")  # ZeRO-3 has no whole weight here
        )


def _is_computed_in(weight: torch.dtype, matrices: torch.dtype) -> bool:
    """Whether nothing but LoRA's small matrices would have to be cast: all in one dtype, or the forward in 16 bits."""
    if torch.is_autocast_enabled("cpu"):
        return weight == torch.get_autocast_dtype("cpu")
    return weight == matrices


def use_fused(config: LoraConfig) -> None:
    """Have PEFT put `FusedLinear` on plain linear layers."""
    config._register_custom_module({nn.Linear: FusedLinear})


def dropped_places(num_elements: int, probability: float, device: torch.device) -> torch.Tensor:
    """Places, rising, at which independent draws of that probability succeed: int64 [about n x p].

    The gaps between successes of a Bernoulli sequence are geometric, so only the successes need a random number.
    """
    if probability >= 1:
        return torch.arange(num_elements, device=device)
    mean, spread = num_elements * probability, math.sqrt(num_elements * probability)
    places = torch.empty(0, dtype=torch.int64, device=device)
    last = -1
    while last < num_elements - 1:  # once, but for a chance of one in a thousand million
        gaps = torch.empty(int(mean + 6 * spread) + 8, device=device, dtype=torch.float64).geometric_(probability)
        more = gaps.to(torch.int64).cumsum(0) + last
        places = torch.cat([places, more])
        last = int(more[-1])
    return places[: int(torch.searchsorted(places, num_elements))]


def _drop(x: torch.Tensor, places: torch.Tensor | None, probability: float) -> torch.Tensor:
    if places is None:
        return x
    scaled = x / (1 - probability) if probability < 1 else torch.zeros_like(x)
    scaled.view(-1).index_fill_(0, places, 0)
    return scaled


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0913  # autograd takes no keywords
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        lora_A: torch.Tensor,
        lora_B: torch.Tensor,
        scaling: float,
        places: torch.Tensor | None,
        probability: float,
    ) -> torch.Tensor:
        ctx.dtype = lora_A.dtype  # of the masters, where the forward is in 16 bits
        lora_A, lora_B = lora_A.to(x.dtype), lora_B.to(x.dtype)
        result = functional.linear(x, weight, bias)
        low = _drop(x, places, probability) @ lora_A.T
        if x.dtype == torch.float32:
            result.addmm_(low, lora_B.T, alpha=scaling)
        else:
            # Rounded as PEFT's: with one rounding less, gradients of 30 layers differ by 0.07, which no trial tells
            # from a fault.
            result.add_(low @ lora_B.T, alpha=scaling)
        ctx.save_for_backward(x, weight, lora_A, lora_B, low, places)
        ctx.scaling, ctx.probability = scaling, probability
        return result

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, lora_A, lora_B, low, places = ctx.saved_tensors
        grad_low = (grad @ lora_B).mul_(ctx.scaling)
        grad_A = grad_low.T @ _drop(x, places, ctx.probability)
        grad_B = (grad.T @ low).mul_(ctx.scaling)
        grad_x = None
        if ctx.needs_input_grad[0]:
            if places is None:
                grad_x = (grad @ weight).addmm_(grad_low, lora_A)
            else:
                grad_x = _drop(grad_low @ lora_A, places, ctx.probability).addmm_(grad, weight)
        return grad_x, None, None, grad_A.to(ctx.dtype), grad_B.to(ctx.dtype), None, None, None
