"""The output layer, called in chunks: its logits, and the gradient of its own weights where they are trained.

The input layer's weight, where it is trained in full, is treated alike.

Two cases are computed here rather than by autograd, for memory and time; any other head is called as it is.

- A weight trained in full (`modules_to_save`): its gradient is added up in place, a block of rows at a time. Autograd
  makes one more [V, H] tensor a chunk, and one more to hold a micro-batch's sum.
- New rows only (`--train_new_tokens_only`): PEFT's wrapper copies the whole matrix, with the trained rows put in, at
  every call, and its gradient is a whole matrix too. Here the columns of the new rows are put into the logits instead.
"""

from collections.abc import Callable

import torch
from peft.utils import ModulesToSaveWrapper, TrainableTokensWrapper
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from yangtuo.model.sharding import is_sharded

_BLOCK_ROWS = 8192  # of the gradient of a weight that is not computed in float32


class Head:
    """A model's output layer.

    Attributes:
        whole: its weight [V, H], where all of it is trained and nothing else in the head is; else None.
        weights_slopes: `logits_and_backward` multiplies a row's gradient by its weight for the gradient of its input
            too; else for those of trained weights only.
    """

    def __init__(self, model: PreTrainedModel):
        self._head = model.get_output_embeddings()
        self._transform = logit_transform(model)
        self.whole = _whole_weight(self._head)
        self.weights_slopes = self.whole is None and bool(self.trained())
        self._new_rows = None if any(map(is_sharded, self.parameters())) else _NewRows.of(self._head)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[C, H] -> [C, V], as the model gives them."""
        return self._transform(self._call(hidden))

    def _call(self, hidden: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self._new_rows.logits(hidden) if self._new_rows else self._head(hidden)
        return output

    def parameters(self) -> list[torch.Tensor]:
        """All weights, frozen ones too."""
        return list(self._head.parameters())

    def logits_and_backward(
        self, hidden: torch.Tensor
    ) -> tuple[torch.Tensor, Callable[[torch.Tensor, torch.Tensor, list[torch.Tensor], float], torch.Tensor]]:
        """Logits [C, V] of a chunk, and the function that goes back from their gradient.

        That function takes the gradient [C, V] of each row's own loss, the rows' weights [C], at most 1, and the sums
        for the trained weights (in the order of `trained`), to which theirs is added times a factor; it returns the
        gradient of `hidden`, see `weights_slopes`.
        """
        with torch.enable_grad():
            leaf = hidden.detach().requires_grad_()
            raw = self._call(leaf)
            output = self._transform(raw)

        def backward(
            slope: torch.Tensor, weights: torch.Tensor, sums: list[torch.Tensor], factor: float
        ) -> torch.Tensor:
            if self.weights_slopes:
                slope = slope * weights[:, None].to(slope.dtype)
                first, *others = torch.autograd.grad(output, [leaf, *self.trained()], slope)
                for total, more in zip(sums, others, strict=True):
                    total.add_(more, alpha=factor)
                return first
            if output is not raw:
                (slope,) = torch.autograd.grad(output, raw, slope)
            if self.whole is not None:
                weighted = torch.mul(hidden, weights[:, None], out=torch.empty_like(hidden, dtype=slope.dtype))
                _add_outer(sums[0], slope, weighted, factor)
            return torch.autograd.grad(raw, leaf, slope)[0]

        return output.detach(), backward

    def trained(self) -> list[torch.Tensor]:
        """The trained weights."""
        return [parameter for parameter in self._head.parameters() if parameter.requires_grad]


def logit_transform(model: PreTrainedModel) -> Callable[[torch.Tensor], torch.Tensor]:
    """What a model does to the head's output, by the fields of its configuration that say so.

    Source: the forward of Gemma 2 (`final_logit_softcapping`), Granite (`logits_scaling`) and Cohere (`logit_scale`)
    in transformers 5.23. Whether that is all is not trusted but tried, see `probe`.
    """
    softcap = getattr(model.config, "final_logit_softcapping", None)
    scale = (getattr(model.config, "logit_scale", None) or 1.0) / (getattr(model.config, "logits_scaling", None) or 1.0)

    def transform(logits: torch.Tensor) -> torch.Tensor:
        if scale != 1.0:
            logits = logits * scale
        return torch.tanh(logits / softcap) * softcap if softcap else logits

    return transform


def _add_outer(total: torch.Tensor, slope: torch.Tensor, hidden: torch.Tensor, factor: float) -> None:
    """Total [V, H] += factor x slope' [V, C] hidden [C, H], with no other tensor of that size."""
    if total.dtype == slope.dtype:
        total.addmm_(slope.T, hidden, alpha=factor)
    elif total.is_cuda and torch.version.hip is None:  # products of 16-bit numbers, added to float32
        torch.addmm(total, slope.T, hidden, out_dtype=total.dtype, alpha=factor, out=total)
    else:
        for block, part in zip(torch.split(total, _BLOCK_ROWS), torch.split(slope.T, _BLOCK_ROWS), strict=True):
            block.add_(part @ hidden, alpha=factor)


def sparse_embedding(model: PreTrainedModel) -> nn.Embedding | None:
    """Have the embedding, where it is trained in full, make its gradient of the rows that were read only.

    Such a gradient is added to a dense `.grad` that is there already (the caller's part, before each backward); the
    optimizer sees nothing new. For one process: DDP would exchange it in another way.
    """
    embedding = _in_use(model.get_input_embeddings())
    if not isinstance(embedding, nn.Embedding) or not embedding.weight.requires_grad:
        return None
    embedding.sparse = True
    return embedding


def grad_of(weight: torch.Tensor) -> torch.Tensor:
    """The weight's gradient so far; zeros where there is none."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad


def _in_use(layer: nn.Module) -> nn.Module:
    """The layer inside PEFT's wrapper for `modules_to_save`."""
    if isinstance(layer, ModulesToSaveWrapper) and len(layer.active_adapters) == 1 and not layer.disable_adapters:
        inside: nn.Module = layer.modules_to_save[layer.active_adapters[0]]
        return inside
    return layer


def _whole_weight(head: nn.Module) -> torch.Tensor | None:
    head = _in_use(head)
    if type(head) is not nn.Linear or head.bias is not None or not head.weight.requires_grad:
        return None
    return head.weight


class _NewRows:
    """A frozen matrix, some rows of which are trained."""

    def __init__(self, base: nn.Linear, delta: torch.Tensor, places: list[int]):
        self._base, self._delta = base, delta
        self._places = torch.tensor(places).to(delta.device, non_blocking=True)

    @classmethod
    def of(cls, head: nn.Module) -> "_NewRows | None":
        """None for any head but PEFT's wrapper around a plain linear layer."""
        if not isinstance(head, TrainableTokensWrapper) or len(head.active_adapters) != 1:
            return None
        layer, name = head.token_adapter, head.active_adapters[0]
        if type(layer.base_layer) is not nn.Linear or layer.base_layer.bias is not None:
            return None
        return cls(layer.base_layer, layer.trainable_tokens_delta[name], layer.token_indices[name])

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self._base(hidden)
        new = functional.linear(hidden, self._delta.to(self._base.weight.dtype))
        return output.index_copy(1, self._places, new.to(output.dtype))
