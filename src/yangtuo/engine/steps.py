"""A run's meaning, and its steps as one rank sees them: what the trainer is fed."""

from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from yangtuo.arguments import DataOrder, LossReduction
from yangtuo.data.encoding import Examples
from yangtuo.engine.padding import pad
from yangtuo.engine.planning import StepShape, epoch_order, plan_step


@dataclass(frozen=True)
class Meaning:
    """What is computed, whatever computes it.

    Attributes:
        shape: rows of a step.
        reduction: how the loss is averaged.
        order: shuffled or sequential.
        order_seed: seed of the shuffling.
        drop_last: leave out the short last step of an epoch.
        label_smoothing: of the training loss.
        eval_rows: rows of one forward in evaluation.
    """

    shape: StepShape
    reduction: LossReduction
    order: DataOrder
    order_seed: int
    drop_last: bool
    label_smoothing: float
    eval_rows: int


class Steps(Dataset[dict[str, Any]]):
    """The steps of an epoch as one rank sees them; `epoch` is set as the run goes on."""

    def __init__(self, examples: Examples, meaning: Meaning, rank: int):
        self.epoch = 0
        self._examples, self._meaning, self._rank = examples, meaning, rank
        self.num_tokens, self.num_supervised = examples.lengths(), examples.num_supervised()  # of each row
        self._order: tuple[int, Any] = (-1, None)

    def __len__(self) -> int:
        return self._meaning.shape.num_steps(len(self._examples), drop_last=self._meaning.drop_last)

    def __getitem__(self, step: int) -> dict[str, Any]:
        meaning = self._meaning
        if self._order[0] != self.epoch:
            order = epoch_order(len(self._examples), self.epoch, meaning.order_seed, meaning.order)
            self._order = (self.epoch, order)
        plan = plan_step(self._order[1], step, meaning.shape, self.num_supervised, meaning.reduction)
        return {"plan": plan, "batches": [pad(self._examples, batch) for batch in plan.micro_batches[self._rank]]}
