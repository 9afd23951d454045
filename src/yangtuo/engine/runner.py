"""The micro-batches of one step: forward, backward, and what happens when memory runs out or a loss is not finite."""

import contextlib
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from yangtuo.data.examples import Examples
from yangtuo.engine.batch_tensors import Batch
from yangtuo.engine.head import grad_of, sparse_embedding
from yangtuo.engine.layout import pad
from yangtuo.engine.loss import SupervisedLoss, weighted_sum
from yangtuo.engine.neftune import EmbeddingNoise
from yangtuo.engine.processes import largest
from yangtuo.engine.steps import Planner, Step, Steps
from yangtuo.engine.watchdog import Watchdog
from yangtuo.errors import NonFiniteLossError, OutOfMemoryError, is_out_of_memory
from yangtuo.i18n import Message

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepKey:
    """Where in a run a step is: its number from 1, the run's seed; dropout is seeded by both."""

    step: int
    seed: int


class StepRunner:
    """Runs one rank's share of steps under accelerate's engine."""

    def __init__(
        self,
        accelerator: Accelerator,
        loss: SupervisedLoss,
        noise: EmbeddingNoise,
        planner: Planner,
        watchdog: Watchdog,
    ):
        self._accelerator, self._loss, self._noise, self._planner = accelerator, loss, noise, planner
        self._watchdog = watchdog
        self._proven_tokens = 0  # of the largest micro-batch so far, on any rank
        kind = accelerator.distributed_type
        self._is_deepspeed = kind == DistributedType.DEEPSPEED
        self.can_redo = kind not in (DistributedType.DEEPSPEED, DistributedType.FSDP)  # a step that runs out of memory
        # DDP would exchange such a gradient in another way; torchrun with one process on a GPU has none.
        is_alone = kind == DistributedType.NO or (kind == DistributedType.MULTI_GPU and accelerator.num_processes == 1)
        self._embedding = sparse_embedding(loss.model) if is_alone else None

    def run_until_it_fits(
        self, model: nn.Module, steps: Steps, step: Step, place: StepKey
    ) -> tuple[torch.Tensor, Step]:
        """See `run`; where memory runs out, this step and those to come are cut smaller.

        Returns:
            The loss, and the step as it was cut.
        """
        while True:
            step = steps.again(step)
            loss = self.run(model, step, place)
            if loss is not None:
                return loss, step
            model.zero_grad(set_to_none=True)
            if torch.accelerator.is_available():
                torch.accelerator.empty_cache()
            steps.execution = steps.execution.halved()
            logger.warning(
                "out of memory: step %d is computed again, in micro-batches of at most %d tokens",
                place.step,
                steps.execution.max_cells,
            )

    def run(self, model: nn.Module, step: Step, place: StepKey) -> torch.Tensor | None:
        """Compute the step's gradients.

        Returns:
            A scalar whose mean over the ranks is the step's loss; None where some rank ran out of memory, and the step
            has to be run again in smaller micro-batches.

        Raises:
            NonFiniteLossError: before the last backward, so no weight has been touched.
            OutOfMemoryError: where the step cannot be cut any further, or not be redone under this engine.
        """
        num_before_last = len(step.layouts) - 1
        losses: list[torch.Tensor] = []
        is_short = False
        if self._embedding is not None:
            grad_of(self._embedding.weight)
        try:
            if self._has_to_rehearse(step):
                self._backward(model, self._forward(model, step, place, 0, is_last=False))
                model.zero_grad(set_to_none=True)
            for i in range(num_before_last):
                share = self._forward(model, step, place, i, is_last=False)
                losses.append(share.detach())
                self._backward(model, share)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            is_short = True
        if self._any_rank(is_short):
            self._check_divisible(step, place)
            return None
        try:
            share = self._forward(model, step, place, num_before_last, is_last=True)
            losses.append(share.detach())
            self._check_finite(torch.stack(losses), step, place)
            self._backward(model, share, is_last=True)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if self._accelerator.num_processes > 1:
                raise self._cannot_redo(step, place) from error
            self._check_divisible(step, place)
            return None
        self._proven_tokens = max(self._proven_tokens, self._largest(step))
        return torch.stack(losses).sum()

    def prime(self, model: nn.Module, optimizer: Any, rows: Examples) -> None:
        """Have DeepSpeed make its optimizer's state, by a step that changes nothing: a checkpoint takes its place."""
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        batch = Batch.of(pad(rows, [0, 1], np.ones(2)), self._accelerator.device)
        self._loss.uses_own_head = False  # as the model is, since no shortcut is tried yet
        self._accelerator.gradient_state._set_sync_gradients(True)
        self._accelerator.backward(weighted_sum(model, self._loss, batch) * 0.0, scale_wrt_gas=False)

    def _has_to_rehearse(self, step: Step) -> bool:
        """Whether DDP's only micro-batch is larger than any before, so that it is computed once for its memory alone.

        DDP cannot abandon a step after a forward with gradient exchange enabled. All ranks decide alike, from the plan:
        DDP's first forwards are themselves meetings of the ranks.
        """
        is_ddp = self._accelerator.num_processes > 1 and self.can_redo
        return is_ddp and len(step.layouts) == 1 and self._largest(step) > self._proven_tokens

    def _largest(self, step: Step) -> int:
        batches = (batch for of_rank in step.plan.micro_batches for batch in of_rank)
        return max(int(self._planner.num_tokens[batch.rows].sum()) for batch in batches)

    def _forward(self, model: nn.Module, step: Step, place: StepKey, i: int, *, is_last: bool) -> torch.Tensor:
        """A micro-batch's part of the loss; engines average gradients over ranks, the step's sum is wanted."""
        accelerator = self._accelerator
        self._watchdog.progress(place.step, i)
        # Seeded by place, not by history: a step that is redone or resumed draws the same masks.
        entropy = [place.seed, place.step - 1, accelerator.process_index, i]
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))
        factor: float = accelerator.num_processes / step.plan.total_weight
        # A sharding engine takes gradients away as they come, and the loss scale of float16 is not known before.
        self._loss.gradient_factor = None if not self.can_redo or accelerator.scaler is not None else factor
        with self._gradients_stay_here(model, is_last), accelerator.autocast():
            batch = Batch.of(step.layouts[i], accelerator.device)
            self._noise.row_lengths = batch.row_lengths
            total = weighted_sum(model, self._loss, batch)
        return total * factor

    def _backward(self, model: nn.Module, share: torch.Tensor, *, is_last: bool = False) -> None:
        options = {"scale_wrt_gas": False} if self._is_deepspeed else {}
        with self._gradients_stay_here(model, is_last):
            self._accelerator.backward(share, **options)

    def _gradients_stay_here(self, model: nn.Module, is_last: bool) -> contextlib.AbstractContextManager[Any]:
        self._accelerator.gradient_state._set_sync_gradients(is_last)
        if is_last or self._is_deepspeed:  # DeepSpeed takes the flag itself as its accumulation boundary
            return contextlib.nullcontext()
        context: contextlib.AbstractContextManager[Any] = self._accelerator.no_sync(model)
        return context

    def _any_rank(self, is_so: bool) -> bool:
        if self._accelerator.num_processes == 1:
            return is_so
        return largest([float(is_so)], self._accelerator.device) == [1.0]

    def _check_divisible(self, step: Step, place: StepKey) -> None:
        if not self.can_redo:
            raise self._cannot_redo(step, place)
        if all(len(batch.rows) == 1 for of_rank in step.plan.micro_batches for batch in of_rank):
            raise OutOfMemoryError(
                "step {step}: out of memory with one row a micro-batch; give --gradient_checkpointing, or a smaller "
                "--max_seq_length",
                step=place.step,
            )

    def _cannot_redo(self, step: Step, place: StepKey) -> OutOfMemoryError:
        return OutOfMemoryError(
            "step {step}: out of memory with at most {max_cells} tokens a micro-batch, where this engine cannot redo "
            "a step; give a smaller --micro_batch_tokens",
            step=place.step,
            max_cells=step.execution.max_cells,
        )

    def _check_finite(self, losses: torch.Tensor, step: Step, place: StepKey) -> None:
        """All ranks stop together, or none."""
        bad = ~torch.isfinite(losses)
        if not self._any_rank(bool(bad.any())):
            return
        examples = self._planner.examples
        rows = [row for layout, is_bad in zip(step.layouts, bad.tolist(), strict=True) if is_bad for row in layout.rows]
        named = ", ".join(examples.where(row) for row in rows[:8]) if rows else Message("of another rank")
        error = NonFiniteLossError(
            "step {step}: the loss is not finite; rows {named}. No weight was changed by this step; the last "
            "checkpoint is good. Try a lower --learning_rate, or --bf16 instead of --fp16",
            step=place.step,
            named=named,
        )
        error.is_second_hand = not rows
        raise error
