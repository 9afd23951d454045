"""Asks one model what the tasks say, and keeps what it gave; what is known already is not asked again."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yangtuo.data.templates import Template
from yangtuo.engine.memory import ModelShape, free_bytes
from yangtuo.errors import DataError
from yangtuo.evaluation.progress import Progress
from yangtuo.evaluation.records import Records
from yangtuo.evaluation.tasks import AnswerTask, LikelihoodTask
from yangtuo.i18n import Message
from yangtuo.inference.batch import BatchGenerator
from yangtuo.inference.forward import RowReader
from yangtuo.inference.generate import Sampling
from yangtuo.inference.likelihood import LikelihoodReader, RowLikelihood, Work
from yangtuo.inference.load import LoadedModel, Opened
from yangtuo.model import fingerprint, provenance
from yangtuo.model.dtypes import name_of

logger = logging.getLogger(__name__)

_MOST_CELLS = {"cpu": 8192, "cuda": 32768}  # questions behind the same exemplars should be one micro-batch
_OF_SHOTS = ("ceval", "cmmlu")
_USED = 0.4  # part of the free memory that one forward may take; keys and values want some too


@dataclass(frozen=True)
class Asked:
    """A model that is asked.

    Attributes:
        name: "base", "tuned", or the folder's.
        loaded: the model.
        template: the text around what is asked.
        num_positions: tokens that prompt and answer may have together; None for any number.
        place: path, adapter and dtype, for `results.json`.
        identity: what tells this model from another one of the same name.
    """

    name: str
    loaded: LoadedModel
    template: Template
    num_positions: int | None
    place: Mapping[str, Any]
    identity: Mapping[str, Any]


def asked_of(name: str, opened: Opened, loaded: LoadedModel, adapter: Path | None) -> Asked:
    """One of an opened model's two: itself, or the base below its adapter, for which `adapter` is None."""
    place = {
        "path": str(opened.places.base),
        "adapter": str(adapter) if adapter else None,
        "dtype": name_of(loaded.model.dtype),
    }
    identity = {
        "base": fingerprint.of_base(str(opened.places.base), opened.places.base, opened.config),
        "below": _merged_in(opened),
        "adapter": provenance.sha256_of(adapter) if adapter else None,
        "dtype": place["dtype"],
        "template": opened.template.identity(),
        "tokenizer": loaded.tokenizer.sha256(),
    }
    return Asked(name, loaded, opened.template, opened.num_positions, place, identity)


def _merged_in(opened: Opened) -> list[str]:
    """Hashes of the adapters that were merged into the base below its own: with them it is another base."""
    if opened.places.adapter is None:
        return []
    there = fingerprint.merged_into(opened.places.base)
    return [provenance.sha256_of(folder) for folder in provenance.below(opened.places.adapter, there)]


def measure(
    asked: Asked, tasks: Sequence[LikelihoodTask | AnswerTask], records: Records, max_cells: int | None
) -> Work:
    """Ask everything that is not in the records yet.

    Args:
        asked: the model.
        tasks: what it is asked.
        records: where what it gives is kept.
        max_cells: `--micro_batch_tokens`; None to choose by the memory.

    Returns:
        What was computed, for so many tokens.

    Raises:
        DataError: a row or a prompt is longer than the model has positions for.
        RunFailure: the model computes no numbers, or memory does not do.
    """
    _check_lengths(asked, tasks)
    open_tasks = [task for task in tasks if not all(records.knows(task.identity, key) for key in task.keys)]
    work = Work()
    if not open_tasks:
        logger.info("%s: everything was measured before", asked.name)
        return work
    reader = RowReader(asked.loaded)
    cells = max_cells or _cells_that_fit(reader)
    for task in open_tasks:
        if isinstance(task, LikelihoodTask):
            done = _read(asked, task, records, LikelihoodReader(reader, cells))
        else:
            sampling = task.sampling or Sampling(task.max_new_tokens)
            done = _answer(asked, task, records, BatchGenerator(reader, asked.template, sampling, cells))
        work.num_cells += done.num_cells
        work.num_tokens += done.num_tokens
    return work


def _check_lengths(asked: Asked, tasks: Sequence[LikelihoodTask | AnswerTask]) -> None:
    if (most := asked.num_positions) is None:
        return
    problems: list[str] = []
    for task in tasks:
        if isinstance(task, LikelihoodTask):
            long = np.flatnonzero(task.examples.lengths() > most).tolist()
            problems += [task.examples.where(i) if task.name == "own" else f"{task.name} {task.keys[i]}" for i in long]
        else:
            long_prompts = [prompt for prompt in task.prompts if len(prompt.ids) >= most]
            problems += [
                Message("the prompt of {where}", where=prompt.where or prompt.text[:40]) for prompt in long_prompts
            ]
    if problems:
        has_shots = any(task.name in _OF_SHOTS for task in tasks)
        remedy = Message("leave them out, or give fewer --shots") if has_shots else Message("leave them out")
        title = Message("longer than the {most:,} positions that the model has; {remedy}", most=most, remedy=remedy)
        raise DataError.of_problems(title, problems)


def _cells_that_fit(reader: RowReader) -> int:
    """By the free memory: a forward without a gradient has one layer's activations at a time."""
    shape = ModelShape.of(reader.loaded.model.config, reader.loaded.model.dtype.itemsize)
    fits = int(free_bytes(reader.device) * _USED // shape.layer_bytes_per_cell())
    return max(1, min(fits, _MOST_CELLS.get(reader.device.type, _MOST_CELLS["cuda"])))


def _read(asked: Asked, task: LikelihoodTask, records: Records, reader: LikelihoodReader) -> Work:
    examples = task.examples

    def is_known(i: int) -> bool:
        return records.knows(task.identity, task.keys[i])

    num_open = sum(not is_known(i) for i in range(len(examples)))
    with Progress(Message("{model}: {task}, rows read", model=asked.name, task=task.name), num_open, "row") as progress:
        for found in reader.read(examples, is_known):
            new = [(i, likelihood) for i, likelihood in found if not is_known(i)]
            records.add(task.identity, [{"key": task.keys[i], **_entry(one, _weights(task, i))} for i, one in new])
            progress.advance(len(new))
    return reader.work


def _weights(task: LikelihoodTask, i: int) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    weights = task.examples.row_weights(i)[1:]
    return weights[weights > 0].astype(np.float64)


def _entry(found: RowLikelihood, weights: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> dict[str, float | int]:
    """What is kept of a row: sums over its tokens with a loss, in nats."""
    losses = -found.logps.astype(np.float64)
    return {
        "nll": float(losses.sum()),
        "tokens": len(losses),
        "hits": int(found.is_likeliest.sum()),
        "weighted_nll": float((losses * weights).sum()),
        "weight": float(weights.sum()),
    }


def _answer(asked: Asked, task: AnswerTask, records: Records, generator: BatchGenerator) -> Work:
    def is_known(i: int) -> bool:
        return records.knows(task.identity, task.keys[i])

    num_open = sum(not is_known(i) for i in range(len(task.prompts)))
    with Progress(
        Message("{model}: {task}, prompts answered", model=asked.name, task=task.name), num_open, "prompt"
    ) as progress:
        for found in generator.answer_all([prompt.ids for prompt in task.prompts], is_known):
            new = [(i, answer) for i, answer in found if not is_known(i)]
            entries = [
                {"key": task.keys[i], "answer": one.text, "ended": one.is_whole, "tokens": one.num_tokens}
                for i, one in new
            ]
            records.add(task.identity, entries)
            progress.advance(len(new))
    return generator.work
