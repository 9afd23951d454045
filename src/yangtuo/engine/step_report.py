"""What each step was, for log.jsonl, the screen and the trackers."""

import statistics
from collections.abc import Mapping
from typing import Any

import torch

from yangtuo.engine.flops import StepMeter
from yangtuo.engine.memory import used_bytes
from yangtuo.engine.processes import from_rank_0
from yangtuo.engine.run_context import RunContext
from yangtuo.engine.steps import Planner, Step


class StepReport:
    """Knows the losses of all steps of a run, those before it was resumed too.

    Attributes:
        losses: of all steps so far.
        num_skipped: of them, by float16.
        peak_bytes: the most memory so far, of the device where it has its own, else of main memory.
        meter: of this process's steps.
    """

    def __init__(self, context: RunContext, meter: StepMeter, planner: Planner, device: torch.device):
        """Called by all ranks; the log of rank 0 counts."""
        self._out, self._planner, self._device = context, planner, device
        log = context.step_log
        self.losses, self.num_skipped = from_rank_0(lambda: (log.losses, log.num_skipped))
        self.meter, self.peak_bytes = meter, 0

    def tell(self, step: int, epoch: float | None, logs: Mapping[str, float], done: Step, *, is_skipped: bool) -> None:
        """A step is done, with what the Trainer says of it."""
        sizes = self._planner.sizes_of(done)
        rates = self.meter.rates(done.layouts, sizes["num_tokens"])
        self.losses.append(logs["loss"])
        used = used_bytes(self._device)
        self.peak_bytes = used.get("device_peak_bytes", used["peak_memory_bytes"])
        skipped: dict[str, Any] = {"skipped": True} if is_skipped else {}
        self.num_skipped += len(skipped)
        self._out.tell_step({"step": step, "epoch": epoch, **logs, **sizes, **rates, **used, **skipped})

    def due_loss(self, step: int, steps_per_epoch: int, max_steps: int) -> float | None:
        """The mean loss since the screen was last told; None where it is not due now."""
        logging = self._out.logging
        if not logging.is_due(step, steps_per_epoch, max_steps):
            return None
        last = logging.last_due(step, steps_per_epoch, max_steps)
        return statistics.fmean(self.losses[last - step :])
