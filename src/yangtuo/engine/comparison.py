"""Two ways to compute the same rows, compared: by the gradient of the trained weights, or by the loss of each token.

The gradient is what training uses, and the finer of the two. Where an engine holds only parts of the weights (ZeRO-3,
FSDP) there is none to look at before a step, and the losses of single tokens stand in for it.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from yangtuo.data.examples import Examples
from yangtuo.engine import tolerance
from yangtuo.engine.batch_tensors import Batch
from yangtuo.engine.layout import Layout
from yangtuo.engine.loss import SupervisedLoss, forward, weighted_sum
from yangtuo.model.sharding import is_sharded

Result = list[torch.Tensor]
_AWAKE = 0.02  # standard deviation, for LoRA matrices that begin at zero and hide the gradient of their partners


class Comparison:
    """Computes rows without a trace in the model.

    Attributes:
        kind: "gradient" or "token losses".
        dtype: in which the model computes.
        device: where it computes.
        limit: the largest distance that rounding explains.
        unreached: names of compared weights that had no gradient in the last result: nothing depends on them.
    """

    def __init__(self, model: nn.Module, base: PreTrainedModel, loss: SupervisedLoss, rows: Examples):
        """`model` as the engine has wrapped it, `base` the causal language model inside, `loss` its loss function."""
        sharded = any(map(is_sharded, model.parameters()))
        self._weights = [] if sharded else _weights(base)
        self.unreached: list[str] = []
        # Sharding engines hook into the whole; elsewhere a wrapper would count a forward without its backward.
        self._model = model if sharded else base
        self._base, self._loss, self._rows = base, loss, rows
        self.device = device_of(base)
        self.kind, self.dtype = "gradient" if self._weights else "token losses", computed_in(base)
        limit_of = tolerance.gradient_limit if self._weights else tolerance.token_losses_limit
        self.limit = limit_of(self.dtype)

    @contextlib.contextmanager
    def on_the_model(self) -> Iterator[None]:
        """Where results are computed: nothing else than the compared weights has a gradient, and none of them is 0."""
        chosen = {id(weight) for weight in self._weights}
        frozen = [p for p in self._base.parameters() if self._weights and p.requires_grad and id(p) not in chosen]
        asleep = [weight for weight in self._weights if not weight.any()]
        was_training, self._loss.gradient_factor = self._model.training, None
        self._model.eval()
        try:
            for weight in frozen:
                weight.requires_grad_(False)
            generator = torch.Generator().manual_seed(0)
            for weight in asleep:
                weight.data.copy_(torch.randn(weight.shape, generator=generator) * _AWAKE)
            yield
        finally:
            for weight in asleep:
                weight.data.zero_()
            for weight in frozen:
                weight.requires_grad_(True)
            self._model.train(was_training)

    def result(self, layout: Layout, *, tells_positions: bool = True) -> Result:
        """Float32 gradients of the compared weights; without such, the losses of all tokens, row by row.

        Without `tells_positions`, the model counts them itself.
        """
        batch = Batch.of(layout, self.device)
        batch = batch if tells_positions else replace(batch, position_ids=None)
        if self._weights:
            with torch.enable_grad():
                total = weighted_sum(self._model, self._loss, batch)
                found = torch.autograd.grad(total, self._weights, allow_unused=True)
            lost = {id(w) for w, grad in zip(self._weights, found, strict=True) if grad is None}
            self.unreached = [name for name, p in self._base.named_parameters() if id(p) in lost]
            pairs = zip(self._weights, found, strict=True)
            return [torch.zeros_like(w, dtype=torch.float32) if grad is None else grad.float() for w, grad in pairs]
        uses_own_head, self._loss.uses_own_head = self._loss.uses_own_head, False  # it gives no logits
        with torch.no_grad():
            logits = forward(self._model, self._loss, batch).logits
        self._loss.uses_own_head = uses_own_head
        chosen = logits.flatten(0, 1).index_select(0, batch.positions).float()
        losses = functional.cross_entropy(chosen, batch.targets, reduction="none")
        return [losses[torch.tensor(order, device=losses.device)] for order in _by_row(layout, self._rows)]

    def result_of_head(self, layout: Layout) -> Result:
        """The same where only the head may differ: of losses, their weighted sum."""
        if self._weights:
            return self.result(layout)
        with torch.no_grad():
            return [weighted_sum(self._model, self._loss, Batch.of(layout, self.device)).reshape(1)]


def distance(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> float:
    """||found - expected|| / ||expected|| over all of them; infinite where it is no number."""
    off = sum(float((a - b).double().square().sum()) for a, b in zip(found, expected, strict=True))
    size = sum(float(b.double().square().sum()) for b in expected)
    value = math.sqrt(off / size) if size else math.inf
    return value if math.isfinite(value) else math.inf


def device_of(base: PreTrainedModel) -> torch.device:
    """Where it computes: that of what is trained, since PEFT's unused originals are elsewhere."""
    parameters = list(base.parameters())
    chosen: torch.Tensor = next((p for p in parameters if p.requires_grad), parameters[0])
    return chosen.device


def computed_in(base: PreTrainedModel) -> torch.dtype:
    """The dtype of the model's forward: autocast's, where it is on."""
    kind = device_of(base).type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else base.dtype


def _weights(base: PreTrainedModel) -> list[torch.Tensor]:
    """The trained weights but those of the vocabulary's size, whose gradients would take as much memory again."""
    most = base.get_input_embeddings().weight.numel()
    trained = [p for p in base.parameters() if p.requires_grad]
    return [p for p in trained if p.numel() < most]


def _by_row(layout: Layout, rows: Examples) -> Iterator[list[int]]:
    """For each row, the predictions of its tokens; all but the first token are supervised."""
    num_columns = layout.input_ids.shape[1]
    pairs = zip(layout.cells.tolist(), layout.targets.tolist(), strict=True)
    prediction_of = {pair: n for n, pair in enumerate(pairs)}
    for line, row in enumerate(layout.rows):
        ids = rows.row(row)[0]
        places = range(line * num_columns, line * num_columns + len(ids))
        own = places if layout.sequences is None else layout.sequences[line]
        yield [prediction_of[int(own[j]), int(ids[j + 1])] for j in range(len(ids) - 1)]
