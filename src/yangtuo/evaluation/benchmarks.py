"""Multiple choice of C-Eval's and CMMLU's folders as tasks of a model, and its scores.

Two ways, which give different figures, as the published ones differ; each is named. By likelihood: the few-shot text
is read as a base reads it, without a template, and the likeliest of the letters A to D behind it is the answer. By
generation: the same text is the user's turn in the model's own template, and the letter is taken from what it writes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from yangtuo.config.choices import ChoicesBy
from yangtuo.data.templates import Template
from yangtuo.data.tokenizer import Tokenizer
from yangtuo.errors import DataError
from yangtuo.evaluation import measures, tasks
from yangtuo.evaluation.choice_files import LETTERS, ChoiceFolder, ChoiceQuestion
from yangtuo.evaluation.choice_prompts import answer_letter, prompt
from yangtuo.evaluation.choice_subjects import subject_of
from yangtuo.evaluation.measures import Measure
from yangtuo.evaluation.probe_items import best_option
from yangtuo.evaluation.records import Records
from yangtuo.evaluation.tasks import AnswerTask, LikelihoodTask

_MOST_TOKENS = 64  # of an answer from which a letter is taken
_SPLITS = ("val", "test", "dev")  # that are asked, the first of which with answers


@dataclass(frozen=True)
class Benchmark:
    """Questions that are asked.

    Attributes:
        name: "ceval" or "cmmlu".
        questions: each has an answer.
        prompts: of each, with the exemplars before it.
        by: how they are asked.
    """

    name: str
    questions: tuple[ChoiceQuestion, ...]
    prompts: tuple[str, ...]
    by: ChoicesBy


@dataclass(frozen=True)
class BenchmarkTask:
    """A benchmark in the ids of a model's tokenizer; `read` or `answered` is None where it is not asked so."""

    benchmark: Benchmark
    read: LikelihoodTask | None
    answered: AnswerTask | None

    @property
    def tasks(self) -> list[LikelihoodTask | AnswerTask]:
        """What is asked."""
        return [task for task in (self.read, self.answered) if task]


def benchmark_of(folder: ChoiceFolder, by: ChoicesBy, shots: int, most: int | None) -> Benchmark:
    """The questions of the first split whose answers are known, each behind exemplars of its subject.

    Args:
        folder: as read.
        by: how they are asked.
        shots: exemplars before each question, of the dev split, at most.
        most: questions of each subject, its first; None for all.

    Raises:
        DataError: no split but dev has answers.
    """
    splits = [split for split in _SPLITS if any(one.answer for one in folder.questions.get(split, ()))]
    if not splits or (splits[0] == "dev" and shots):
        raise DataError(
            "{benchmark}: no questions with answers but those of dev, which are the exemplars; add the val or test "
            "files, or give --shots 0",
            benchmark=folder.benchmark,
        )
    chosen, seen = [], dict[str, int]()
    for question in folder.questions[splits[0]]:
        seen[question.subject] = seen.get(question.subject, 0) + 1
        if question.answer and (most is None or seen[question.subject] <= most):
            chosen.append(question)
    exemplars: dict[str, list[ChoiceQuestion]] = {}
    for one in folder.questions.get("dev", ()) if shots else ():
        if one.answer and len(exemplars.setdefault(one.subject, [])) < shots:
            exemplars[one.subject].append(one)
    prompts = tuple(prompt(question, exemplars.get(question.subject, ())) for question in chosen)
    return Benchmark(folder.benchmark, tuple(chosen), prompts, by)


def task_of(tokenizer: Tokenizer, template: Template, asked: Benchmark) -> BenchmarkTask:
    """The questions as this model reads them.

    Raises:
        DataError: the template cannot ask a plain question.
    """
    names = [f"{one.subject}/{one.number}" for one in asked.questions]
    read = answered = None
    if asked.by is not ChoicesBy.GENERATION:
        rows = tasks.continuations(tokenizer, [(text, LETTERS) for text in asked.prompts])
        read = LikelihoodTask(asked.name, rows, tuple(f"{name}/{letter}" for name in names for letter in LETTERS))
    if asked.by is not ChoicesBy.LIKELIHOOD:
        prompts = tasks.questions(tokenizer, template, asked.prompts)
        answered = AnswerTask(asked.name, prompts, tuple(names), _MOST_TOKENS)
    return BenchmarkTask(asked, read, answered)


def compare(asked: Mapping[str, BenchmarkTask], records: Mapping[str, Records]) -> list[Measure]:
    """Accuracy over all questions, by group and by subject; by generation, also the share that named a letter."""
    first = next(iter(asked.values()))
    name, questions = first.benchmark.name, first.benchmark.questions
    found: list[Measure] = []
    if first.read:
        chosen = {model: _read(own, records[model]) for model, own in asked.items()}
        found += _accuracies(f"choice/{name}", questions, chosen)
    if first.answered:
        letters = {model: _named(own, records[model]) for model, own in asked.items()}
        found += _accuracies(f"choice/{name}/generated", questions, letters)
        named = {model: [letter is not None for letter in own] for model, own in letters.items()}
        found.append(measures.of_shares(f"choice/{name}/generated/named", named, None))
    return found


def _read(own: BenchmarkTask, records: Records) -> list[str | None]:
    """The likeliest letter of each question; None where two are equally likely."""
    assert own.read
    letters = []
    for one in own.benchmark.questions:
        keys = [f"{one.subject}/{one.number}/{letter}" for letter in LETTERS]
        sums = [-float(records.get(own.read.identity, key)["nll"]) for key in keys]
        best = best_option(sums)
        letters.append(None if best is None else LETTERS[best])
    return letters


def _named(own: BenchmarkTask, records: Records) -> list[str | None]:
    """The letter that each generated answer names."""
    assert own.answered
    answers = [str(records.get(own.answered.identity, key)["answer"]) for key in own.answered.keys]
    questions = own.benchmark.questions
    return [answer_letter(answer, one.options) for answer, one in zip(answers, questions, strict=True)]


def _accuracies(
    prefix: str, questions: Sequence[ChoiceQuestion], letters: Mapping[str, Sequence[str | None]]
) -> list[Measure]:
    hits = {
        model: [letter == one.answer for letter, one in zip(own, questions, strict=True)]
        for model, own in letters.items()
    }
    # Subjects of one benchmark differ in difficulty alone, so that questions are independent.
    groups: dict[str, list[int]] = {"accuracy": list(range(len(questions)))}
    subjects: dict[str, list[int]] = {}
    for i, one in enumerate(questions):
        for group in subject_of(one.benchmark, one.subject).groups:
            groups.setdefault(group, []).append(i)
        subjects.setdefault(one.subject, []).append(i)

    def measured(name: str, chosen: list[int], *, is_detail: bool) -> Measure:
        of_models = {model: [own[i] for i in chosen] for model, own in hits.items()}
        return measures.of_shares(f"{prefix}/{name}", of_models, "higher", is_detail=is_detail)

    return [
        *(measured(name, chosen, is_detail=False) for name, chosen in groups.items()),
        *(measured(name, chosen, is_detail=True) for name, chosen in subjects.items()),
    ]
