"""The loss of a micro-batch: a weighted sum over supervised tokens; the caller divides.

The head runs on supervised positions only, in chunks, so that [supervised, vocabulary] logits never exist at once. A
chunk's gradient is computed together with its loss, so no logits are kept or computed twice.

All of it happens inside the model's own forward, where the engines (DDP, ZeRO-3, FSDP) expect it: a forward hook keeps
what enters the head, the model's own head is given no position, and the `loss_function` that transformers' models call
(settable) does the rest.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from yangtuo.engine.batch_tensors import Batch
from yangtuo.engine.gather import take
from yangtuo.engine.head import Head, grad_of
from yangtuo.engine.layout import Layout
from yangtuo.model.sharding import is_sharded

# Of float32 logits; on a CPU, what stays near its caches. The gradient of a head that is trained in full is read and
# written once a chunk.
CHUNK_BYTES = {"cpu": 32 << 20, "cuda": 256 << 20}
CHUNK_BYTES_OF_TRAINED_HEAD = {"cpu": 32 << 20, "cuda": 1 << 30}


def chunk_bytes(device: torch.device, *, trains_head: bool) -> int:
    """Of the float32 logits of a chunk."""
    sizes = CHUNK_BYTES_OF_TRAINED_HEAD if trains_head else CHUNK_BYTES
    return sizes.get(device.type, sizes["cuda"])


class SupervisedLoss:
    """Stands in for a model's `loss_function`; `weighted_sum` runs the model with it.

    Attributes:
        model: the causal language model.
        label_smoothing: part of the target spread evenly over the vocabulary, as torch's cross-entropy defines it;
            in training only.
        uses_own_head: False to take the logits as the model computes them, at once; for models that do more to them
            than the head, see `probe`.
        knows_decoder: whether transformers says what stands below the head; without that, the head cannot be ours.
        chunk_rows: positions of a chunk; None for what fits `CHUNK_BYTES`.
        gradient_factor: what the loss will be multiplied with before its backward, where that is known and gradients
            of the head may be added to `.grad` in the forward already; else None.
    """

    def __init__(self, model: PreTrainedModel, label_smoothing: float = 0.0):
        self.label_smoothing, self.uses_own_head = label_smoothing, True
        self.chunk_rows: int | None = None
        self.gradient_factor: float | None = None
        self.model, self._hidden, self._losses_and_slopes = model, torch.empty(0), _losses_and_slopes
        decoder = model.get_decoder()
        self.knows_decoder = decoder is not None and decoder is not model
        if self.knows_decoder:
            decoder.register_forward_hook(self._keep_hidden)
        model.loss_function = self

    def compile(self, *, is_on: bool = True) -> None:
        """Have the loss of a chunk and its slope computed by one compiled graph; or no longer."""
        self._losses_and_slopes = torch.compile(_losses_and_slopes, dynamic=True) if is_on else _losses_and_slopes

    def _keep_hidden(self, module: nn.Module, args: Any, output: Any) -> None:
        self._hidden = output[0]

    def __call__(self, logits: torch.Tensor, *args: Any, batch: Batch, **kwargs: Any) -> torch.Tensor:
        """Called by the model with `logits` of the positions in `logits_to_keep`."""
        hidden, self._hidden = self._hidden, torch.empty(0)
        smoothing = self.label_smoothing if self.model.training else 0.0
        if not self.uses_own_head:
            logits_NV = logits.flatten(0, 1).index_select(0, batch.positions)
            return _losses(logits_NV, batch.targets, batch.weights, smoothing)[0].sum()
        hidden_NH = take(hidden.flatten(0, 1), batch.cells)
        head = Head(self.model)
        num_bytes = chunk_bytes(hidden.device, trains_head=head.whole is not None)
        chunk_rows = self.chunk_rows or max(16, num_bytes // (4 * self.model.config.get_text_config().vocab_size))

        # A sharded head is gathered at each call, so all ranks have to call it equally often.
        num_chunks = max(1, math.ceil(max(batch.most_predictions, len(batch.targets)) / chunk_rows))
        chunks = zip(
            *(torch.tensor_split(tensor, num_chunks) for tensor in (hidden_NH, batch.targets, batch.weights)),
            strict=True,
        )
        if torch.is_grad_enabled() and not any(map(is_sharded, head.parameters())):
            how = _How(head, smoothing, batch.largest_weight, self.gradient_factor, self._losses_and_slopes)
            total: torch.Tensor = _LossAndGradient.apply(  # type: ignore[no-untyped-call]
                how, list(chunks), hidden_NH, batch.weights, *head.trained()
            )
            return total

        def losses_of(hidden_CH: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
            return _losses(head.logits(hidden_CH), targets, weights, smoothing)[0]

        return torch.cat([checkpoint(losses_of, *chunk, use_reentrant=False) for chunk in chunks]).sum()


def weighted_sum(model: nn.Module, loss: SupervisedLoss, batch: Batch) -> torch.Tensor:
    """Sum of weight x negative log-likelihood, in nats, over the predictions of a batch: a scalar, float32.

    Args:
        model: as the engine has wrapped it; its base has `loss` as its loss function.
        loss: says whose head is used.
        batch: the micro-batch. A weightless one gives a zero that still has a gradient graph.
    """
    total: torch.Tensor = forward(model, loss, batch).loss
    return total


def forward(model: nn.Module, loss: SupervisedLoss, batch: Batch) -> Any:
    """What the model gives for a batch: `.loss` as in `weighted_sum`; `.logits` [B, K, V], without the own head."""
    tree = {} if batch.tree is None else {"tree": batch.tree}
    return model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        labels=batch.input_ids,  # only so that the model calls its loss function, which has its own targets
        logits_to_keep=batch.keep[:0] if loss.uses_own_head else batch.keep,
        use_cache=False,
        batch=batch,
        **tree,
    )


def mean_loss(
    model: nn.Module, loss: SupervisedLoss, layouts: Iterable[Layout], total_weight: float, accelerator: Accelerator
) -> float:
    """Mean loss over a data set, in nats a token; every row once, whatever the batch size and the number of ranks.

    Sums over ranks first and divides once; the mean of batch means that transformers' own evaluation takes changes
    with the batch size (4.160 to 4.209 for one model and data set, where the truth was 4.163).

    Args:
        model: as the engine has wrapped it; left in evaluation mode.
        loss: its loss function.
        layouts: this rank's share of the rows.
        total_weight: of all ranks' predictions.
        accelerator: adds up over ranks, and sets the dtype of the forward.
    """
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=accelerator.device)
    with torch.no_grad(), accelerator.autocast():
        for layout in layouts:
            total += weighted_sum(model, loss, Batch.of(layout, accelerator.device)).double()
    return float(accelerator.reduce(total, "sum")) / total_weight


def _losses(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, smoothing: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weighted losses [C] for logits [C, V]; also log-probabilities in float32: [C, V], and of the targets [C, 1]."""
    logp = torch.log_softmax(logits, -1, dtype=torch.float32)
    of_targets = logp.gather(1, targets[:, None])
    losses = -of_targets[:, 0]
    if smoothing:
        losses = (1 - smoothing) * losses - smoothing * logp.mean(-1)
    return losses * weights, logp, of_targets


def _losses_and_slopes(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, smoothing: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weighted losses [C]; gradient of each row's own loss with respect to its logits: [C, V] as for no target, [C, 1].

    It is softmax - smoothed target. The targets' are apart, so that a compiler need not copy all for a few.
    """
    losses, logp, of_targets = _losses(logits, targets, weights, smoothing)
    spread = smoothing / logp.shape[1]
    slopes = of_targets.exp() - spread - (1 - smoothing)
    if smoothing:
        return losses, (logp.exp() - spread).to(logits.dtype), slopes.to(logits.dtype)
    return losses, torch.exp(logp, out=torch.empty_like(logits)), slopes.to(logits.dtype)


@dataclass(frozen=True)
class _How:
    """What `_LossAndGradient` is told beside its tensors; see `SupervisedLoss`."""

    head: Head
    smoothing: float
    largest_weight: float
    gradient_factor: float | None
    losses_and_slopes: Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


class _LossAndGradient(torch.autograd.Function):
    """Loss of chunks whose gradient, for a loss that counts once, is computed in the forward.

    The gradients are those of the plain sum; a loss scale or the division by the step's tokens arrives in `backward`
    and is multiplied there. Weights, which may be as small as one by the number of a batch's tokens, are multiplied in
    float32 or divided by the largest of them first. So in float16 nothing small is rounded to zero. Only where
    `gradient_factor` says beforehand what will arrive, the head's gradients are added to its weights' `.grad` at once.
    """

    @staticmethod
    def forward(  # autograd takes no keywords
        ctx: Any,
        how: _How,
        chunks: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
        hidden: torch.Tensor,
        weights: torch.Tensor,
        *trained: torch.Tensor,
    ) -> torch.Tensor:
        """Run all chunks; hidden is [N, H], weights [N]; chunks are their pieces with targets between."""
        is_direct = how.gradient_factor is not None
        sums = [grad_of(weight) if is_direct else torch.zeros_like(weight) for weight in trained]
        factor = how.largest_weight * (1.0 if how.gradient_factor is None else how.gradient_factor)
        all_losses, of_hidden = [], []
        for hidden_CH, targets, weights_C in chunks:
            output, backward = how.head.logits_and_backward(hidden_CH)
            with torch.no_grad():
                losses, slope, of_targets = how.losses_and_slopes(output, targets, weights_C, how.smoothing)
                slope.scatter_(1, targets[:, None], of_targets)
                all_losses.append(losses)
                of_hidden.append(backward(slope, weights_C / how.largest_weight, sums, factor))
        if how.head.weights_slopes:
            weights = torch.full_like(weights, how.largest_weight)
        ctx.save_for_backward(torch.cat(of_hidden), weights, *([] if is_direct else sums))
        ctx.num_trained = len(trained)
        return torch.cat(all_losses).sum()  # in the same order, whatever the chunks

    @staticmethod
    def backward(ctx: Any, scale: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of the forward, times the one that arrives."""
        of_hidden, weights, *sums = ctx.saved_tensors
        of_trained = [each.mul_(scale) for each in sums] or [None] * ctx.num_trained
        return None, None, (of_hidden.float() * (weights * scale)[:, None]).to(of_hidden.dtype), None, *of_trained
