"""log.jsonl -> curves, events, answers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yangtuo.report.json_reading import State, count, number, objects, read_lines, text, truth
from yangtuo.report.series import Series

# Names of curves, and where log.jsonl has them; of several names, the first that a step has.
OF_STEPS = {
    "loss": ("loss",),
    "learning_rate": ("learning_rate",),
    "grad_norm": ("grad_norm",),
    "tokens_per_s": ("tokens_per_s",),
    "memory": ("device_memory_bytes", "memory_bytes"),
}
OF_EVALUATIONS = {"eval_loss": ("eval_loss",)}
_PEAKS = ("device_peak_bytes", "peak_memory_bytes")


@dataclass(frozen=True)
class Event:
    """Something that the run said to look at; `name` is the monitor's word for it; the Chinese may be missing."""

    step: int
    name: str
    text: str
    text_zh: str = ""


@dataclass(frozen=True)
class Sample:
    """An answer to a prompt of `--sample_prompts`; `start` is that of the model that the run began with."""

    prompt: str
    answer: str
    start: str | None
    reference: str | None
    ended: bool | None


@dataclass(frozen=True)
class SampleSet:
    """The answers of one moment."""

    step: int
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class RunLog:
    """What a run has written while it went on.

    Attributes:
        curves: by the names of `OF_STEPS` and `OF_EVALUATIONS`; x is the step.
        events: in order.
        samples: in order.
        num_steps: steps that have a line.
        last_step: the last of them; 0 for none.
        step_seconds: of all steps together; None where no line has it.
        peak_bytes: the most memory, of the device where it has its own; None where no line has it.
        num_tokens: of all steps.
    """

    curves: Mapping[str, Series]
    events: tuple[Event, ...] = ()
    samples: tuple[SampleSet, ...] = ()
    num_steps: int = 0
    last_step: int = 0
    step_seconds: float | None = None
    peak_bytes: float | None = None
    num_tokens: int = 0


def read_log(path: Path) -> tuple[RunLog, State]:
    """Read it, whatever state it is in."""
    entries, state = read_lines(path)
    return log_of(entries), state


def log_of(entries: Iterable[Mapping[str, Any]]) -> RunLog:
    """The log of these lines. Of a step that is there twice, the later line counts."""
    steps: dict[int, Mapping[str, Any]] = {}
    evaluations: dict[int, Mapping[str, Any]] = {}
    events, samples = [], []
    for entry in entries:
        step = count(entry.get("step"))
        if step is None:
            continue
        if "event" in entry:
            events.append(Event(step, *(text(entry.get(key)) for key in ("event", "text", "text_zh"))))
        elif "eval_loss" in entry:
            evaluations[step] = entry
        elif "samples" in entry:
            samples.append(SampleSet(step, tuple(_sample(one) for one in objects(entry["samples"]))))
        elif "loss" in entry:
            steps[step] = entry
    of_steps = [steps[step] for step in sorted(steps)]
    return RunLog(
        curves={
            **{name: _curve(steps, names) for name, names in OF_STEPS.items()},
            **{name: _curve(evaluations, names) for name, names in OF_EVALUATIONS.items()},
        },
        events=tuple(events),
        samples=tuple(samples),
        num_steps=len(steps),
        last_step=max(steps, default=0),
        step_seconds=_sum(entry.get("step_seconds") for entry in of_steps),
        peak_bytes=_peak(of_steps),
        num_tokens=int(_sum(entry.get("num_tokens") for entry in of_steps) or 0),
    )


def _curve(entries: Mapping[int, Mapping[str, Any]], names: Iterable[str]) -> Series:
    name = next((name for name in names if any(name in entry for entry in entries.values())), None)
    if name is None:
        return Series()
    order = [step for step in sorted(entries) if name in entries[step]]
    return Series(tuple(map(float, order)), tuple(number(entries[step][name]) for step in order))


def _sum(values: Iterable[Any]) -> float | None:
    found = [one for one in map(number, values) if one is not None]
    return sum(found) if found else None


def _peak(entries: Iterable[Mapping[str, Any]]) -> float | None:
    known = list(entries)
    for name in _PEAKS:
        found = [one for one in (number(entry.get(name)) for entry in known) if one is not None]
        if found:
            return max(found)
    return None


def _sample(one: Mapping[str, Any]) -> Sample:
    start, reference = one.get("base"), one.get("reference")
    return Sample(
        prompt=text(one.get("prompt")),
        answer=text(one.get("answer")),
        start=start if isinstance(start, str) else None,
        reference=reference if isinstance(reference, str) else None,
        ended=truth(one.get("ended")),
    )
