"""NEFTune: uniform noise on the embeddings in training (arXiv:2310.05914).

transformers' own hook scales it by the length of the padded batch, so that a row's noise would depend on its
neighbours; here it is scaled by the row's own length, as the paper has it.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


class EmbeddingNoise:
    """A hook on a model's embedding; `row_lengths` [B, T] is set before each forward. `alpha` None adds nothing."""

    def __init__(self, model: PreTrainedModel, alpha: float | None):
        self.row_lengths, self._alpha = torch.empty(0), alpha
        if alpha:
            model.get_input_embeddings().register_forward_hook(self._add)

    def _add(self, module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        """Noise within alpha / sqrt(tokens x hidden size)."""
        if not module.training or self._alpha is None:
            return output
        bound = self._alpha / (self.row_lengths * output.shape[-1]).to(output.dtype).sqrt()
        return output + torch.empty_like(output).uniform_(-1, 1) * bound[..., None]
