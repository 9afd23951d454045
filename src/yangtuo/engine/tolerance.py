"""How far rounding carries a result away, by dtype: the limits that trials and proofs go by.

Figures of measurements are in docs/log.md.
"""

import math

import torch

# Largest distance ||a - b|| / ||b|| of two gradients of the same loss. Families whose rows share prefixes rightly come
# to 0.000002 (float32), 0.015 (bfloat16) and 0.002 (float16); the least wrong one to 0.04 in each of the three.
_GRADIENT = {torch.float32: 0.001, torch.bfloat16: 0.025, torch.float16: 0.01}
# The same of the losses of single tokens, where a gradient cannot be had.
_TOKEN_LOSSES = {torch.float32: 0.0005, torch.bfloat16: 0.02, torch.float16: 0.005}
# Of the loss of one token (relative, absolute below 1 nat), three standard deviations.
_TOKEN = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.0125}
_LEAST = {torch.float32: 1e-4, torch.bfloat16: 1e-3, torch.float16: 1.25e-4}


def gradient_limit(dtype: torch.dtype) -> float:
    """The largest relative distance between two gradients that rounding explains."""
    return _GRADIENT.get(dtype, _GRADIENT[torch.bfloat16])


def token_losses_limit(dtype: torch.dtype) -> float:
    """The largest relative distance between two lists of token losses that rounding explains."""
    return _TOKEN_LOSSES.get(dtype, _TOKEN_LOSSES[torch.bfloat16])


def mean_loss_limit(dtype: torch.dtype, loss: float, num_tokens: float) -> float:
    """The largest difference between two mean losses, in nats a token, that rounding explains.

    Errors of single tokens have either sign, so that of a mean falls with the square root of their number.
    """
    kind = dtype if dtype in _TOKEN else torch.bfloat16
    return max(_LEAST[kind], _TOKEN[kind] / math.sqrt(max(num_tokens, 1.0))) * max(1.0, abs(loss))
