"""Where a run tells what it does: log.jsonl, the screen, the other processes."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from yangtuo.engine.early_stopping import EvaluationHistory
from yangtuo.engine.monitor import Event, TrainingMonitor
from yangtuo.engine.progress import Logging, Progress
from yangtuo.engine.signals import StopRequest
from yangtuo.engine.step_log import StepLog
from yangtuo.engine.watchdog import Watchdog
from yangtuo.i18n import tr, with_chinese

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunContext:
    """Where a run tells what it does, how often at least it saves (minutes; 0 for never), and its evaluations."""

    step_log: StepLog
    screen: Progress
    logging: Logging
    save_minutes: float
    stop: StopRequest
    watchdog: Watchdog
    monitor: TrainingMonitor
    evaluations: EvaluationHistory

    def tell_step(self, entry: dict[str, Any]) -> None:
        """A step, with what it was."""
        self.step_log.write(entry)
        self.screen.step(entry)
        self.tell_events(entry["step"], self.monitor.step(entry))
        if entry.get("skipped"):
            told = tr(
                "step {step}: skipped, since gradients overflowed float16; the loss scale goes down, the schedule waits"
            )
            self.screen.say(told.format(step=entry["step"]))

    def tell_evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """An evaluation, its metrics named as transformers names them."""
        entry = {"step": step, **{name.removeprefix("eval_"): value for name, value in metrics.items()}}
        entry["eval_loss"], entry["eval_tokens"] = entry.pop("loss"), entry.pop("tokens")
        self.step_log.write(entry)
        told = tr("step {step}  eval_loss {loss:.4f}  perplexity {perplexity:.3f}  ({rows} rows, {seconds:.0f} s)")
        seconds, loss = entry["runtime"], entry["eval_loss"]
        filled = told.format(step=step, loss=loss, perplexity=entry["perplexity"], rows=entry["rows"], seconds=seconds)
        self.screen.say(filled)
        self.tell_events(step, self.monitor.evaluation(entry))

    def tell_events(self, step: int, events: Iterable[Event]) -> None:
        """Say what a person should look at, and log it."""
        for event in events:
            self.step_log.write({"step": step, "event": event.name, **with_chinese("text", event.text)})
            logger.warning("step %d: %s", step, event.text)
