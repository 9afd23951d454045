"""Activations of a forward in 16 bits stay in 16 bits; only what is trained is float32.

Three things widen them otherwise, and with them everything that follows: norms whose weights are stored in the other
kind of 16 bits; PEFT casts the input of each LoRA layer to the
dtype of its matrices, and an embedding that is trained in full gives float32, which makes the whole residual stream
float32, queries and keys among it, for which there is no fast attention. Under autocast neither is needed: products of
matrices are computed in 16 bits in any case, and bit for bit the same (PEFT does so itself on 4-bit layers).
"""

from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from yangtuo.model.sharding import is_sharded


def keep_narrow(model: nn.Module, base: PreTrainedModel, dtype: torch.dtype) -> None:
    """Have LoRA layers take their input as it is, and norms and the embedding give the dtype of the forward.

    Args:
        model: with the LoRA layers.
        base: the causal language model inside.
        dtype: bfloat16 or float16, that of autocast.
    """
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = False

    for weight in base.parameters():
        # A norm's weight in the other 16 bits would make its result float32.
        is_norm = weight.dim() == 1 and not weight.requires_grad and not is_sharded(weight)
        if is_norm and weight.dtype in (torch.bfloat16, torch.float16):
            weight.data = weight.data.to(dtype)

    def narrowed(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        return output.to(dtype) if torch.is_autocast_enabled(output.device.type) else output

    base.get_input_embeddings().register_forward_hook(narrowed)
