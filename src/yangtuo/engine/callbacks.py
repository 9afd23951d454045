"""Trainer callbacks: progress bar, timed checkpoints, stopping on a signal."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import DefaultFlowCallback

from yangtuo.engine.processes import largest
from yangtuo.engine.progress import Progress
from yangtuo.engine.signals import StopRequest
from yangtuo.engine.steps import Steps


@dataclass(frozen=True)
class Hooks:
    """What the trainer does at some moments.

    Attributes:
        act: evaluates and saves as the control says.
        is_over: whether evaluations have ended the run.
        look: called before each step of the optimizer.
    """

    act: Callable[[], None]
    is_over: Callable[[], bool]
    look: Callable[[], None]


class Callbacks(TrainerCallback):  # type: ignore[misc]
    """The screen's begin and end, saving by the clock, stopping on a signal, and going on from a checkpoint."""

    def __init__(self, screen: Progress, save_minutes: float, stop: StopRequest, hooks: Hooks):
        """With 0 minutes, no checkpoint is saved by the clock."""
        self._screen, self._save_seconds, self._stop, self._hooks = screen, save_minutes * 60, stop, hooks
        self._last_save = time.monotonic()

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        state.compute_steps(args, state.max_steps)  # as the options of now have it, not those of a checkpoint
        self._screen.start(state.global_step, state.max_steps)
        self._last_save = time.monotonic()
        if state.global_step:
            self._finish_step(args, state, control, len(kwargs["train_dataloader"]))
            control.should_training_stop = control.should_training_stop or self._hooks.is_over()

    def _finish_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, steps_per_epoch: int
    ) -> None:
        """Evaluate where the checkpoint's step still has to be: a signal does not wait, an epoch's end comes later."""
        flow = DefaultFlowCallback()
        flow.on_step_end(args, state, control)
        self._catch_up(state, control)
        if control.should_training_stop or state.global_step % steps_per_epoch == 0:
            flow.on_epoch_end(args, state, control)
            self._catch_up(state, control)

    def _catch_up(self, state: TrainerState, control: TrainerControl) -> None:
        is_done = any(entry["step"] == state.global_step and "eval_loss" in entry for entry in state.log_history)
        if control.should_evaluate and not is_done:
            self._hooks.act()
        control.should_log = control.should_evaluate = control.should_save = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # Clocks differ and signals come to one process; all ranks save and stop, or none.
        waits = self._save_seconds and args.save_strategy != "no"
        is_due = bool(waits) and time.monotonic() - self._last_save >= self._save_seconds
        some_due, signal_number = largest([float(is_due), float(self._stop.signal)], args.device)
        control.should_save = control.should_save or bool(some_due)
        if signal_number and state.global_step < state.max_steps:
            self._stop.agreed = int(signal_number)
            control.should_save, control.should_training_stop, control.should_evaluate = True, True, False

    def on_pre_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._hooks.look()

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        steps: Steps = kwargs["train_dataloader"].dataset
        steps.epoch = state.global_step // len(steps)

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._stop.agreed:  # the checkpoint is there; the rest is done when the run goes on
            control.should_evaluate = control.should_save = False

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._last_save = time.monotonic()

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._screen.stop()
