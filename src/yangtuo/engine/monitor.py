"""Looks at each step and each evaluation of a run, and says early what a person would want to know.

Everything here is a function of log.jsonl's entries, so a run that is resumed goes on with what it knew. Each kind is
said once: on the screen, in run.json's notes, and as an entry `{"step", "event", "text", "text_zh"}` of log.jsonl.
"""

import math
import os
import statistics
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch

from yangtuo.i18n import Listed, Message
from yangtuo.model.adapter_state import module_of

_AT_START = 5  # steps that are the start
_WINDOW = 10  # steps that are looked at
_SPIKE_MADS = 6.0  # median absolute deviations, of about 0.67 standard deviations each
_SPIKE_PART = 0.5  # of the median; smaller ones are the rows' own differences
_ABOVE = 1.05  # of the start: smaller rises may be other rows
_FIRST, _FAR_ABOVE = 2, 1.5  # steps, and how far above those
_VANISHED = 1e-3  # of the gradient norm at the start
_RISE = 1.01  # of the best evaluation
_WAITED = 0.25  # of the time, for a processor
_WAITED_SECONDS = 5.0  # of steps, before it is said


class Event(NamedTuple):
    """Something to look at; `name` is for programs."""

    name: str
    text: str


class TrainingMonitor:
    """What a run has been like so far; `step` and `evaluation` return what is new."""

    def __init__(self, entries: Iterable[Mapping[str, Any]] = ()):
        """The entries of log.jsonl before, of a run that goes on."""
        self._steps: list[Mapping[str, Any]] = []
        self._evaluations: list[tuple[int, float]] = []
        self._said: set[str] = set()
        for entry in entries:
            self._keep(entry)

    def step(self, entry: Mapping[str, Any]) -> list[Event]:
        """A step is done."""
        self._keep(entry)
        return self._new(self._of_steps())

    def evaluation(self, entry: Mapping[str, Any]) -> list[Event]:
        """An evaluation is done."""
        self._keep(entry)
        return self._new(self._of_evaluations())

    def _keep(self, entry: Mapping[str, Any]) -> None:
        if "event" in entry:
            self._said.add(entry["event"])
        elif "eval_loss" in entry:
            self._evaluations.append((entry["step"], _number(entry["eval_loss"])))
        elif "loss" in entry:
            self._steps.append(entry)

    def _new(self, found: Iterator[Event]) -> list[Event]:
        events = [event for event in found if event.name not in self._said]
        self._said.update(event.name for event in events)
        return events

    def _of_steps(self) -> Iterator[Event]:
        losses = [_number(entry["loss"]) for entry in self._steps]
        yield from _spike(losses, self._steps[-1]["step"])
        yield from _above_its_start(losses, self._steps[-1])
        yield from _vanished([_number(entry.get("grad_norm")) for entry in self._steps])
        yield from _skipped(self._steps)
        yield from _shared_processor(self._steps)

    def _of_evaluations(self) -> Iterator[Event]:
        """Over-fitting: two rises one after the other, above the best, while the rows trained on fare better."""
        if len(self._evaluations) < 3:
            return
        best_step, best = min(self._evaluations, key=lambda each: each[1])
        (_, a), (_, b), (step, c) = self._evaluations[-3:]
        before = [_number(entry["loss"]) for entry in self._steps if entry["step"] <= best_step]
        after = [_number(entry["loss"]) for entry in self._steps if entry["step"] > best_step]
        if not (a < b < c and c > _RISE * best and before and after):
            return
        if statistics.fmean(after) < statistics.fmean(before[-len(after) :]):
            yield Event(
                "over_fitting",
                Message(
                    "over-fitting: the loss of the evaluation rises, {best:.4f} at step {best_step} and {now:.4f} "
                    "at step {step}, while that of training falls: rows are learned by heart. best/ has the "
                    "adapter of step {best_step}; --early_stopping_patience 2 stops by itself, fewer "
                    "--num_train_epochs or more rows help",
                    best=best,
                    best_step=best_step,
                    now=c,
                    step=step,
                ),
            )


def _spike(losses: list[float], step: int) -> Iterator[Event]:
    before = losses[-_WINDOW - 1 : -1]
    if len(before) < _WINDOW:
        return
    middle = statistics.median(before)
    spread = statistics.median(abs(loss - middle) for loss in before)
    last = losses[-1]
    rise = last - middle
    if rise > _SPIKE_MADS * spread and rise > _SPIKE_PART * middle:
        yield Event(
            "loss_spike",
            Message(
                "the loss of step {step} is {last:.4f}, where that of the {window} steps before was about "
                "{middle:.4f}: rows unlike the others, or a --learning_rate that is too high if it does not "
                "come down",
                step=step,
                last=last,
                window=_WINDOW,
                middle=middle,
            ),
        )


def _above_its_start(losses: list[float], last: Mapping[str, Any]) -> Iterator[Event]:
    if len(losses) < _AT_START + _WINDOW:
        return
    now = statistics.median(losses[-_WINDOW:])
    # A run may go wrong within its first steps, which are then no measure; the first two hardly know it.
    limits = {_AT_START: _ABOVE * max(losses[:_AT_START]), _FIRST: _FAR_ABOVE * max(losses[:_FIRST])}
    number = next((steps for steps, limit in limits.items() if now > limit), None)
    if number is not None:
        highest = max(losses[:number])
        yield Event(
            "loss_above_start",
            Message(
                "the loss is above its start: at most {highest:.4f} in the first {number} steps, {now:.4f} "
                "in the last {window}; the run makes the model worse. Stop it with Ctrl-C and try a tenth of "
                "the learning rate {rate:.1e}",
                rate=last.get("learning_rate", math.nan),
                highest=highest,
                number=number,
                now=now,
                window=_WINDOW,
            ),
        )


def _vanished(norms: list[float]) -> Iterator[Event]:
    norms = [norm for norm in norms if math.isfinite(norm)]
    if len(norms) < 2 * _AT_START:
        return
    start, now = statistics.median(norms[:_AT_START]), statistics.median(norms[-_AT_START:])
    if start > 0 and now < _VANISHED * start:
        yield Event(
            "gradient_vanished",
            Message(
                "gradients have all but vanished: their norm was {start:.2g} at the start and is {now:.2g} "
                "now, so nothing more is learned; the rows are known by heart, or too high a learning rate "
                "has broken the adapter",
                start=start,
                now=now,
            ),
        )


def _skipped(steps: list[Mapping[str, Any]]) -> Iterator[Event]:
    recent = steps[-_WINDOW:]
    count = sum(bool(entry.get("skipped")) for entry in recent)
    if len(recent) == _WINDOW and count > _WINDOW / 2:
        yield Event(
            "skipped_steps",
            Message(
                "{count} of the last {window} steps were skipped, since gradients overflowed float16: --bf16 "
                "where the device has it, else a lower --learning_rate",
                count=count,
                window=_WINDOW,
            ),
        )


def _shared_processor(steps: list[Mapping[str, Any]]) -> Iterator[Event]:
    recent = [entry for entry in steps[-_AT_START:] if "cpu_wait" in entry]
    seconds = sum(entry["step_seconds"] for entry in recent)
    if len(recent) < 3 or seconds < _WAITED_SECONDS:
        return
    waited = sum(entry["cpu_wait"] * entry["step_seconds"] for entry in recent) / seconds
    if waited > _WAITED:
        load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
        told = Message(
            "the processor is shared: {waited:.0%} of the last steps' time this process waited for one ({load} "
            "programs want to run on {cpu_count} processors)",
            waited=waited,
            load=load,
            cpu_count=os.cpu_count(),
        )
        advice = [Message("end the others")]
        if os.environ.get("OMP_NUM_THREADS") != "1":
            advice.append(
                Message("or give fewer threads (OMP_NUM_THREADS=1): threads that wait for each other lose most")
            )
        yield Event("shared_processor", Message("{told}; {advice}", told=told, advice=Listed(advice)))


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def no_gradient(gradients: Mapping[str, torch.Tensor | None]) -> list[Event]:
    """Which modules no gradient reaches, of their trained tensors' gradients by name.

    Experts, and rows of new tokens, may have had no token in this step.
    """
    reached: dict[str, bool] = {}
    for name, gradient in gradients.items():
        if ".token_adapter." in name:
            continue
        values = gradient.coalesce().values() if gradient is not None and gradient.is_sparse else gradient
        module = module_of(name)
        reached[module] = reached.get(module, False) or (values is not None and bool(values.count_nonzero()))
    idle = [module for module, is_reached in reached.items() if not is_reached and "experts" not in module]
    if not idle:
        return []
    shown = ", ".join(idle[:4]) + (", ..." if len(idle) > 4 else "")
    text = Message(
        "no gradient reaches {num_idle} of {num_reached} trained modules, which will learn nothing: "
        "{shown}; leave them out of --trainable or --modules_to_save, or look whether the model uses "
        "them",
        num_idle=len(idle),
        num_reached=len(reached),
        shown=shown,
    )
    return [Event("no_gradient", text)]
