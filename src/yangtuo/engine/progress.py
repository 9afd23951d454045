"""What a person sees while steps run: a bar where there is a terminal, plain lines where there is none."""

import logging
import math
import time
from dataclasses import dataclass
from typing import Any

from yangtuo.i18n import tr
from yangtuo.logs import bar, lasting, shows_bars

logger = logging.getLogger(__name__)

_EVERY = 10  # steps
_SURE_AFTER = 3  # steps
_FORECAST_OFF = 0.2  # by so much a forecast may be wrong, before it is said again


@dataclass(frozen=True)
class Logging:
    """When the screen and the trackers are told; log.jsonl gets every step. Same values as in TrainingArguments.

    Attributes:
        strategy: no, steps or epoch.
        steps: every so many, below 1 a part of the run; 0 for every 10 steps, more often in a short run, and the last.
        first_step: the first one in any case.
    """

    strategy: str
    steps: float
    first_step: bool

    def is_due(self, step: int, steps_per_epoch: int, max_steps: int) -> bool:
        """Whether now."""
        if self.strategy == "no":
            return False
        if step == 1 and self.first_step:
            return True
        if self.strategy == "epoch":
            return step % steps_per_epoch == 0 or step == max_steps
        if self.strategy != "steps":
            return False
        if self.steps == 0:
            return step % min(_EVERY, max(1, max_steps // _EVERY)) == 0 or step == max_steps
        every = self.steps if self.steps >= 1 else math.ceil(self.steps * max_steps)
        return step % max(1, int(every)) == 0

    def last_due(self, before: int, steps_per_epoch: int, max_steps: int) -> int:
        """The latest step before this one at which it was due; 0 for none."""
        return next((n for n in range(before - 1, 0, -1) if self.is_due(n, steps_per_epoch, max_steps)), 0)


class Progress:
    """Progress of a run. `shown` is False on all ranks but one.

    Attributes:
        planned_seconds: that all steps will take, by the measurement before the first; None where there was none.
    """

    def __init__(self, *, shown: bool, wants_bar: bool):
        self.planned_seconds: float | None = None
        self._shown, self._wants_bar = shown, wants_bar and shows_bars()
        self._bar: Any = None
        self._total = 0
        self._tokens_per_s = 0.0
        self._last: dict[str, Any] = {}
        self._begin, self._first_step = time.monotonic(), 0
        self._forecast: float | None = None  # seconds of a step, until steps have told
        self._seconds: list[float] = []  # of the first steps

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()  # so that an error stands on a line of its own

    def start(self, first_step: int, total: int) -> None:
        """Steps are about to run."""
        self._total, self._first_step, self._begin = total, first_step, time.monotonic()
        if self._shown and self._wants_bar:
            with lasting():
                self._bar = bar(total=total, initial=first_step, unit=tr("step"), dynamic_ncols=True)

    def forecast(self, seconds: float) -> None:
        """Say how long the run will take, of the seconds that a step will, by a measurement before the first."""
        self._forecast, self.planned_seconds = seconds, seconds * self._total
        told = tr("time: about {time} for {steps:,} steps, by a first measurement")
        self.say(told.format(time=_clock(seconds * self._total), steps=self._total))

    def _check_forecast(self, seconds: float) -> None:
        """Say it again after the third step, where it was wrong; the first step has made what the others find made."""
        self._seconds.append(seconds)
        if self._forecast is None or len(self._seconds) < _SURE_AFTER:
            return
        now = sum(self._seconds[1:]) / (_SURE_AFTER - 1)
        if abs(now - self._forecast) > _FORECAST_OFF * self._forecast:
            left = now * (self._total - self._first_step - _SURE_AFTER)
            told = tr("time: {now:.3g} s a step, not {before:.3g}; about {time} left")
            self.say(told.format(now=now, before=self._forecast, time=_clock(left)))
        self._forecast = None

    def step(self, entry: dict[str, Any]) -> None:
        """A step is done; `entry` is its line of log.jsonl."""
        if not self._last:
            self._begin = time.monotonic()
        self._last = entry
        self._check_forecast(entry["step_seconds"])
        smooth = 0.8 if self._tokens_per_s else 0.0
        self._tokens_per_s = smooth * self._tokens_per_s + (1 - smooth) * entry["tokens_per_s"]
        if self._bar is not None:
            loss, rate = _loss(entry), f"{self._tokens_per_s:,.0f} tokens/s"
            shown = f"{loss}, {rate}, {_saved(entry)}, {_memory(entry)}"
            self._bar.set_postfix_str(shown, refresh=False)
            with lasting():
                self._bar.update(1)

    def report(self, step: int, logs: dict[str, Any]) -> None:
        """A logging step is due."""
        at = tr("step {step}/{total}").format(step=step, total=self._total)
        parts = [at, _loss(logs), tr("lr {rate:.3g}").format(rate=logs["learning_rate"])]
        if "grad_norm" in logs:
            parts.append(tr("grad_norm {norm:.3g}").format(norm=logs["grad_norm"]))
        done = step - self._first_step
        if self._bar is None and done:
            left = self._seconds_of_step(done) * (self._total - step)
            rate = f"{self._tokens_per_s:,.0f} tokens/s"
            parts += [rate, _saved(self._last), _memory(self._last), tr("{time} left").format(time=_clock(left))]
        self.say("  ".join(parts))

    def _seconds_of_step(self, done: int) -> float:
        """Evaluations and checkpoints included; the first step, which makes what the others find, is left out."""
        if done == 1:
            return float(self._last["step_seconds"])
        return (time.monotonic() - self._begin) / (done - 1)

    def say(self, line: str) -> None:
        """Tell a line without breaking the bar; where a library says it, it is the program's to show it."""
        if self._shown:
            logger.info("%s", line)

    def stop(self) -> None:
        """No more steps."""
        if self._bar is not None:
            with lasting():
                self._bar.close()
            self._bar = None


def _loss(entry: dict[str, Any]) -> str:
    return tr("loss {loss:.4f}").format(loss=entry["loss"])


def _saved(entry: dict[str, Any]) -> str:
    """Model FLOP utilisation, and the parts of a padded batch that the step did not compute."""
    if entry["mfu"] > 1:  # the processor was busy with something else while its rate was measured
        told = tr("saved {padding:.0%} padding + {prefix:.0%} prefix")
    else:
        told = tr("MFU {mfu:.0%}, saved {padding:.0%} padding + {prefix:.0%} prefix")
    return told.format(mfu=entry["mfu"], padding=entry["padding_saved"], prefix=entry["prefix_saved"])


def _memory(entry: dict[str, Any]) -> str:
    """In use and at most, of the device where it has its own."""
    names = ("device_memory_bytes", "device_peak_bytes")
    if names[0] not in entry:
        names = ("memory_bytes", "peak_memory_bytes")
    now, peak = (entry.get(name, 0) / 2**30 for name in names)
    return tr("{now:.1f} GiB (peak {peak:.1f})").format(now=now, peak=peak)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
