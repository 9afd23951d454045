"""The story of an evaluation: what is asked, each model in turn, what was found, the verdict."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yangtuo.data.examples import Examples
from yangtuo.data.templates import Template
from yangtuo.data.tokenizer import Tokenizer
from yangtuo.evaluation import benchmarks, own_data, probing, results
from yangtuo.evaluation.benchmarks import Benchmark, BenchmarkTask
from yangtuo.evaluation.measures import Measure
from yangtuo.evaluation.measuring import Asked, measure
from yangtuo.evaluation.own_data import OwnData
from yangtuo.evaluation.probe_items import Item
from yangtuo.evaluation.probing import Probe
from yangtuo.evaluation.records import Records
from yangtuo.evaluation.results import Evaluation
from yangtuo.evaluation.tasks import AnswerTask, LikelihoodTask

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What models are asked.

    Attributes:
        folder: where it is written.
        rows: encodes the user's own rows with a tokenizer and a template; None without any.
        data: files of these rows.
        num_answers: how many of them are answered at most.
        max_new_tokens: of an answer.
        items: of the probe set.
        benchmarks: multiple choice.
        max_cells: `--micro_batch_tokens`; None to choose by the memory.
    """

    folder: Path
    rows: Callable[[Tokenizer, Template], Examples] | None
    data: list[dict[str, Any]]
    num_answers: int
    max_new_tokens: int
    items: Sequence[Item]
    benchmarks: Sequence[Benchmark]
    max_cells: int | None


@dataclass
class Questions:
    """What one model is asked, in the ids of its tokenizer."""

    own: OwnData | None
    probe: Probe | None
    benchmarks: list[BenchmarkTask]

    @property
    def tasks(self) -> list[LikelihoodTask | AnswerTask]:
        """All of it."""
        found: list[LikelihoodTask | AnswerTask] = list(self.own.tasks) if self.own else []
        found += self.probe.tasks if self.probe else ()
        return found + [task for each in self.benchmarks for task in each.tasks]


@dataclass
class _Measured:
    """Models that were asked, by name, in order."""

    questions: dict[str, Questions] = field(default_factory=dict)
    records: dict[str, Records] = field(default_factory=dict)
    models: list[dict[str, Any]] = field(default_factory=list)
    num_cells: int = 0
    num_tokens: int = 0


Key = tuple[str, str]


def key_of(tokenizer: Tokenizer, template: Template) -> Key:
    """What decides the ids of all that is asked."""
    return tokenizer.sha256(), template.identity()


def questions_of(request: Request, tokenizer: Tokenizer, template: Template) -> Questions:
    """What a model with this tokenizer and template is asked; nothing of the model is loaded for it.

    Raises:
        DataError: rows or questions that cannot be asked.
    """
    own = None
    if request.rows:
        examples = request.rows(tokenizer, template)
        own = own_data.own_data(tokenizer, template, examples, request.num_answers, request.max_new_tokens)
    probe = probing.probe(tokenizer, template, request.items) if request.items else None
    asked = [benchmarks.task_of(tokenizer, template, one) for one in request.benchmarks]
    return Questions(own, probe, asked)


def evaluate(
    request: Request,
    models: Iterable[Asked],
    asked_beforehand: Mapping[Key, Questions],
    versions: Mapping[str, str],
) -> Evaluation:
    """Ask all models, and write what was found.

    Args:
        request: what they are asked.
        models: each is asked while it is the iterator's last; the first is what the others are compared with.
        asked_beforehand: questions that were made before models were loaded, see `key_of`.
        versions: of libraries, for `results.json`.

    Raises:
        UserError: rows or questions that cannot be asked.
        RunFailure: a model computes no numbers, or memory does not do; what is done is kept.
    """
    began, done = time.monotonic(), _Measured()
    template = ""
    for asked in models:
        tokenizer = asked.loaded.tokenizer
        questions = asked_beforehand.get(key_of(tokenizer, asked.template))
        questions = questions or questions_of(request, tokenizer, asked.template)
        records = Records(request.folder / f"{asked.name}.jsonl", asked.identity)
        work = measure(asked, questions.tasks, records, request.max_cells)
        done.questions[asked.name], done.records[asked.name] = questions, records
        done.models.append({"name": asked.name, **asked.place, "template": asked.template.name})
        done.num_cells += work.num_cells
        done.num_tokens += work.num_tokens
        template = asked.template.name
        del asked, tokenizer  # the next one needs its memory
    found = _found(request, done, template)
    value = results.as_json(found, versions, time.monotonic() - began)
    results.write(request.folder, value, _answers(done))
    return found


def _found(request: Request, done: _Measured, template: str) -> Evaluation:
    first = next(iter(done.questions.values()))
    own = {name: questions.own for name, questions in done.questions.items() if questions.own}
    probes = {name: questions.probe for name, questions in done.questions.items() if questions.probe}
    measures: list[Measure] = own_data.compare(own, done.records) if own else []
    measures += probing.compare(probes, done.records) if probes else []
    for number in range(len(first.benchmarks)):
        asked = {name: questions.benchmarks[number] for name, questions in done.questions.items()}
        measures += benchmarks.compare(asked, done.records)
    names = list(done.questions)
    return Evaluation(
        models=done.models,
        template=template,
        data=request.data,
        measures=measures,
        verdict=results.verdict_of(measures, names),
        changed=probing.changed(probes, done.records) if len(probes) > 1 else {},
        samples=own_data.samples(own, done.records) if own and first.own and first.own.answers else [],
        computed={"cells": done.num_cells, "tokens": done.num_tokens},
    )


def _answers(done: _Measured) -> Iterable[dict[str, Any]]:
    """Every answer of every model."""
    for name, questions in done.questions.items():
        for task in questions.tasks:
            if isinstance(task, AnswerTask):
                for key, prompt in zip(task.keys, task.prompts, strict=True):
                    entry = done.records[name].get(task.identity, key)
                    reference = {"reference": prompt.reference} if prompt.reference else {}
                    told = {"answer": entry["answer"], "ended": entry["ended"], "tokens": entry["tokens"]}
                    yield {"model": name, "task": task.name, "key": key, "prompt": prompt.text, **reference, **told}
