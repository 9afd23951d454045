"""The rows whose loss is compared before the first step and after the last, and how long a step will take by them."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from yangtuo.data.examples import Examples
from yangtuo.engine.steps import Steps

_NUM_ROWS = 16


class ProofRows:
    """Some of the rows that a run trains on, the same at its start, after each resumption and at its end.

    Attributes:
        loss_at_start: in nats a token, before the first step; None until it is measured.
    """

    def __init__(self, steps: Steps):
        """The steps of the run."""
        self._steps = steps
        self._of_steps: int | None = None  # of whose rows they are: a run that is extended keeps those it began with
        self.loss_at_start: float | None = None

    def rows(self, max_steps: int) -> Examples:
        """The rows."""
        return self._steps.spread(self._of_steps or max_steps, _NUM_ROWS)

    def measure(self, max_steps: int, loss_of: Callable[[Examples], float], *, checkpointing: bool) -> float:
        """Measure the loss at the start; returns how many seconds a step will take: a backward costs a forward."""
        rows, begin = self.rows(max_steps), time.monotonic()
        self.loss_at_start = loss_of(rows)
        of_token = (time.monotonic() - begin) / int(rows.lengths().sum())
        lengths, of_step = self._steps.examples.lengths(), self._steps.recipe.shape.rows_per_step
        return of_token * (3 if checkpointing else 2) * float(lengths.mean()) * min(of_step, len(lengths))

    def to_json(self, max_steps: int) -> dict[str, Any]:
        """For a checkpoint."""
        return {"loss_at_start": self.loss_at_start, "proof_steps": self._of_steps or max_steps}

    def restore(self, position: Mapping[str, Any]) -> None:
        """From a checkpoint; one of an earlier version has no number of steps."""
        self.loss_at_start, self._of_steps = position["loss_at_start"], position.get("proof_steps")
