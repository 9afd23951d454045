"""The loss of a micro-batch: a weighted sum over supervised tokens. Dividing by the step's weight is the caller's."""

import torch
from torch import nn
from torch.nn import functional

from yangtuo.engine.padding import PaddedBatch


def token_nll(model: nn.Module, batch: PaddedBatch, label_smoothing: float = 0.0) -> torch.Tensor:
    """Negative log-likelihood, in nats, of each supervised token: float32 [N].

    Args:
        model: a causal language model of transformers; its head runs on `batch.keep` only.
        batch: the micro-batch.
        label_smoothing: part of the target spread evenly over the vocabulary, as torch's cross-entropy defines it.
    """
    logits_BKV = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        logits_to_keep=batch.keep,
        use_cache=False,
    ).logits
    logits_NV = logits_BKV.flatten(0, 1)[batch.positions].float()
    return functional.cross_entropy(logits_NV, batch.targets, reduction="none", label_smoothing=label_smoothing)


def weighted_sum(nll: torch.Tensor, batch: PaddedBatch) -> torch.Tensor:
    """Sum of weight x negative log-likelihood; a weightless batch gives a zero that still has a gradient graph."""
    return (nll * batch.weights).sum()
