"""Where a run tells what it does: log.jsonl, the screen, the other processes."""

from dataclasses import dataclass
from typing import Any

from yangtuo.engine.progress import Logging, Progress
from yangtuo.engine.signals import StopRequest
from yangtuo.engine.step_log import StepLog
from yangtuo.engine.watchdog import Watchdog


@dataclass(frozen=True)
class RunContext:
    """Where a run tells what it does, and how often at least it saves (minutes; 0 for never)."""

    step_log: StepLog
    screen: Progress
    logging: Logging
    save_minutes: float
    stop: StopRequest
    watchdog: Watchdog

    def tell_step(self, entry: dict[str, Any]) -> None:
        """A step, with what it was."""
        self.step_log.write(entry)
        self.screen.step(entry)
        if entry.get("skipped"):
            self.screen.say(
                f"step {entry['step']}: skipped, since gradients overflowed float16; the loss scale goes down, the "
                "schedule waits"
            )

    def tell_evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """An evaluation, its metrics named as transformers names them."""
        entry = {"step": step, **{name.removeprefix("eval_"): value for name, value in metrics.items()}}
        entry["eval_loss"], entry["eval_tokens"] = entry.pop("loss"), entry.pop("tokens")
        self.step_log.write(entry)
        self.screen.say(
            f"step {step}  eval_loss {entry['eval_loss']:.4f}  perplexity {entry['perplexity']:.3f}  "
            f"({entry['rows']} rows, {entry['runtime']:.0f} s)"
        )
