"""Layers that hand a state from token to token in place of attention: recurrent and convolutional mixers."""

import re

from torch import nn

_NAMES = re.compile(
    "Mamba|SSM|Rwkv|RWKV|LSTM|Recurrent|Rglru|Retention|DeltaNet|DeltaRule|LinearAttention|LightningAttention|ShortConv"
)
_CONVOLUTIONS = (nn.Conv1d, nn.RNNBase)


def carries_state(module: nn.Module) -> bool:
    """Whether it is one, or a convolution of one. Source: the classes of transformers' models of 2024 to 2026."""
    return isinstance(module, _CONVOLUTIONS) or _NAMES.search(type(module).__name__) is not None
