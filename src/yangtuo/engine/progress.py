"""What a person sees while steps run: a bar where there is a terminal, plain lines where there is none."""

import math
import sys
import time
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from yangtuo.logs import lasting, say


@dataclass(frozen=True)
class Logging:
    """When the screen and the trackers are told; log.jsonl gets every step. Same values as in TrainingArguments."""

    strategy: str
    steps: float
    first_step: bool

    def is_due(self, step: int, steps_per_epoch: int, max_steps: int) -> bool:
        """Whether now; `steps` below 1 are a part of the run."""
        if step == 1 and self.first_step:
            return True
        if self.strategy == "epoch":
            return step % steps_per_epoch == 0 or step == max_steps
        every = self.steps if self.steps >= 1 else math.ceil(self.steps * max_steps)
        return self.strategy == "steps" and step % max(1, int(every)) == 0

    def last_due(self, before: int, steps_per_epoch: int, max_steps: int) -> int:
        """The latest step before this one at which it was due; 0 for none."""
        return next((n for n in range(before - 1, 0, -1) if self.is_due(n, steps_per_epoch, max_steps)), 0)


class Progress:
    """Progress of a run. `shown` is False on all ranks but one."""

    def __init__(self, *, shown: bool, bar: bool):
        self._shown, self._wants_bar = shown, bar and sys.stderr.isatty()
        self._bar: Any = None
        self._total = 0
        self._tokens_per_s = 0.0
        self._last: dict[str, Any] = {}
        self._begin, self._first_step = time.monotonic(), 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()  # so that an error stands on a line of its own

    def start(self, first_step: int, total: int) -> None:
        """Steps are about to run."""
        self._total, self._first_step, self._begin = total, first_step, time.monotonic()
        if self._shown and self._wants_bar:
            with lasting():
                self._bar = tqdm(total=total, initial=first_step, unit="step", dynamic_ncols=True)

    def step(self, entry: dict[str, Any]) -> None:
        """A step is done; `entry` is its line of log.jsonl."""
        self._last = entry
        smooth = 0.8 if self._tokens_per_s else 0.0
        self._tokens_per_s = smooth * self._tokens_per_s + (1 - smooth) * entry["tokens_per_s"]
        if self._bar is not None:
            shown = f"loss {entry['loss']:.4f}, {self._tokens_per_s:,.0f} tokens/s, {_saved(entry)}"
            self._bar.set_postfix_str(shown, refresh=False)
            with lasting():
                self._bar.update(1)

    def report(self, step: int, logs: dict[str, Any]) -> None:
        """A logging step is due."""
        parts = [f"step {step}/{self._total}", f"loss {logs['loss']:.4f}", f"lr {logs['learning_rate']:.3g}"]
        if "grad_norm" in logs:
            parts.append(f"grad_norm {logs['grad_norm']:.3g}")
        done = step - self._first_step
        if self._bar is None and done:
            left = (time.monotonic() - self._begin) / done * (self._total - step)
            parts += [f"{self._tokens_per_s:,.0f} tokens/s", _saved(self._last), f"{_clock(left)} left"]
        self.say("  ".join(parts))

    def say(self, line: str) -> None:
        """Print a line without breaking the bar."""
        if self._shown:
            say(line)

    def stop(self) -> None:
        """No more steps."""
        if self._bar is not None:
            with lasting():
                self._bar.close()
            self._bar = None


def _saved(entry: dict[str, Any]) -> str:
    """Model FLOP utilisation, and the parts of a padded batch that the step did not compute."""
    return f"MFU {entry['mfu']:.0%}, saved {entry['padding_saved']:.0%} padding + {entry['prefix_saved']:.0%} prefix"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
