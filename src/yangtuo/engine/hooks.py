"""Turns of events that have no method of the Trainer to override."""

import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from yangtuo.engine.processes import largest
from yangtuo.engine.screen import Screen
from yangtuo.engine.steps import Steps
from yangtuo.engine.stopping import StopRequest


class Hooks(TrainerCallback):  # type: ignore[misc]
    """The screen's begin and end, saving by the clock, and stopping on a signal."""

    def __init__(self, screen: Screen, save_minutes: float, stop: StopRequest):
        self._screen, self._save_seconds, self._stop = screen, save_minutes * 60, stop
        self._last_save = time.monotonic()

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._screen.start(state.global_step, state.max_steps)
        self._last_save = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # Clocks differ and signals come to one process; all ranks save and stop, or none.
        waits = self._save_seconds and args.save_strategy != "no"
        is_due = bool(waits) and time.monotonic() - self._last_save >= self._save_seconds
        some_due, signal_number = largest([float(is_due), float(self._stop.signal)], args.device)
        control.should_save = control.should_save or bool(some_due)
        if signal_number and state.global_step < state.max_steps:
            self._stop.agreed = int(signal_number)
            control.should_save, control.should_training_stop, control.should_evaluate = True, True, False

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        steps: Steps = kwargs["train_dataloader"].dataset
        steps.epoch = state.global_step // len(steps)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._last_save = time.monotonic()

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._screen.stop()
