"""Answers beside each other: before and after training, and what a reference says."""

from collections.abc import Sequence
from dataclasses import dataclass

from yangtuo.report.evaluation import Evaluation
from yangtuo.report.run_log import RunLog, SampleSet

_MOST_PROMPTS = 20
_MOST_BETWEEN = 4
_MOST_LETTERS = 1500  # of a text; the files have all of it


@dataclass(frozen=True)
class Said:
    """One answer; `who` is the name of a text, or of a model."""

    who: str
    text: str | None
    is_cut: bool = False


@dataclass(frozen=True)
class Answered:
    """A prompt and its answers, in the order in which they are shown; `between` are those of steps in between."""

    prompt: str
    answers: tuple[Said, ...]
    reference: str | None = None
    between: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Answers:
    """Some prompts with their answers, of how many; `step` is that of the last answers."""

    prompts: tuple[Answered, ...]
    num_all: int
    step: int = 0


def of_samples(log: RunLog) -> Answers | None:
    """Those of `--sample_prompts` in log.jsonl, as of the last evaluation; None where there are none."""
    if not log.samples:
        return None
    last = log.samples[-1]
    between = _spread([one for one in log.samples[:-1] if 0 < one.step < last.step])
    prompts = []
    for one in last.samples[:_MOST_PROMPTS]:
        before = Said("answers.before", _cut(one.start))
        after = Said("answers.after", _cut(one.answer), is_cut=one.ended is False)
        steps = tuple(
            (earlier.step, _cut(found.answer) or "")
            for earlier in between
            for found in earlier.samples
            if found.prompt == one.prompt
        )
        answers = (before, after) if last.step else (after,)
        prompts.append(Answered(_cut(one.prompt) or "", answers, _cut(one.reference), steps))
    return Answers(tuple(prompts), len(last.samples), last.step)


def of_evaluation(evaluation: Evaluation | None) -> Answers | None:
    """Those of evaluation/results.json; None where there are none."""
    if evaluation is None or not evaluation.samples:
        return None
    prompts = tuple(
        Answered(
            _cut(prompt) or "",
            tuple(Said(name, _cut(answers.get(name))) for name in evaluation.models),
            _cut(reference),
        )
        for prompt, reference, answers in evaluation.samples[:_MOST_PROMPTS]
    )
    return Answers(prompts, len(evaluation.samples))


def _spread(sets: Sequence[SampleSet]) -> list[SampleSet]:
    """Some of them, evenly spread."""
    if len(sets) <= _MOST_BETWEEN:
        return list(sets)
    return [sets[i * (len(sets) - 1) // (_MOST_BETWEEN - 1)] for i in range(_MOST_BETWEEN)]


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]} […]"
