"""The user's own rows: their loss, and what a model answers to them beside what it should have answered.

Models with other tokenizers may read other rows, since a row can be too long for one of them: what all have is
compared, row by row. Their tokens are not the same then, so that losses are compared by character of the trained text.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from yangtuo.data import prompt_rows
from yangtuo.data.examples import Examples
from yangtuo.data.templates import Template
from yangtuo.data.tokenizer import Tokenizer
from yangtuo.evaluation import measures, text_scores
from yangtuo.evaluation.llamafactory_scores import as_llamafactory
from yangtuo.evaluation.measures import Measure
from yangtuo.evaluation.records import Records
from yangtuo.evaluation.tasks import AnswerTask, LikelihoodTask
from yangtuo.evaluation.verdict import ENDED, OWN_LOSS, OWN_TEXT_LOSS, REPETITION

logger = logging.getLogger(__name__)

_MOST_SAMPLES = 20


@dataclass(frozen=True)
class OwnData:
    """What a model is asked of the user's rows.

    Attributes:
        rows: that are read.
        clusters: for each of them by its key, what it shares with others: its dialogue, or its prompt.
        characters: for each of them by its key, how many its trained text has.
        answers: prompts of some rows; None where none are to be answered.
    """

    rows: LikelihoodTask
    clusters: Mapping[str, int]
    characters: Mapping[str, int]
    answers: AnswerTask | None

    @property
    def tasks(self) -> list[LikelihoodTask | AnswerTask]:
        """What is asked."""
        return [self.rows, self.answers] if self.answers else [self.rows]


def own_data(
    tokenizer: Tokenizer, template: Template, examples: Examples, num_answers: int, max_new_tokens: int
) -> OwnData:
    """The rows, and the prompts before the last answers of some of them, evenly spread.

    Args:
        tokenizer: of the model.
        template: of its prompts.
        examples: encoded rows.
        num_answers: how many are answered at most.
        max_new_tokens: of an answer.
    """
    keys = _keys(examples)
    firsts = examples.firsts()
    of_prompt = examples.hashes[firsts, 1][examples.row_numbers()]
    clusters = dict(zip(keys, map(int, np.unique(of_prompt, return_inverse=True)[1]), strict=True))
    characters = {key: _num_characters(tokenizer, examples, i) for i, key in enumerate(keys)}
    rows = LikelihoodTask("own", examples, keys)
    if not num_answers:
        return OwnData(rows, clusters, characters, None)
    lasts = np.array([*firsts[1:], len(examples)]) - 1
    chosen = lasts[np.unique(np.linspace(0, len(lasts) - 1, min(num_answers, len(lasts))).astype(int))]
    prompts = tuple(prompt_rows.of_examples(tokenizer, template, examples, chosen.tolist()))
    answers = AnswerTask("own", prompts, tuple(keys[i] for i in chosen), max_new_tokens)
    return OwnData(rows, clusters, characters, answers)


def _keys(examples: Examples) -> tuple[str, ...]:
    """File and row of each example, as numbers; with its number in the row where a row is several."""
    firsts = examples.firsts()[examples.row_numbers()]
    within = np.arange(len(examples)) - firsts
    rows = zip(examples.source_numbers.tolist(), examples.rows.tolist(), within.tolist(), strict=True)
    return tuple(f"{source}:{row}" + (f".{number}" if number else "") for source, row, number in rows)


def _num_characters(tokenizer: Tokenizer, examples: Examples, i: int) -> int:
    ids, supervised = examples.row(i)
    return max(1, len(tokenizer.decode(ids[supervised].tolist()).strip()))


def compare(asked: Mapping[str, OwnData], records: Mapping[str, Records]) -> list[Measure]:
    """The measures of all models, the first of which is the one that others are compared with."""
    first = next(iter(asked.values()))
    keys = _common(first.rows.keys, [own.rows.keys for own in asked.values()])
    if num_left_out := max(len(own.rows.keys) for own in asked.values()) - len(keys):
        logger.warning("own data: %s rows that not all models can read are left out", f"{num_left_out:,}")
    entries = {model: [records[model].get(own.rows.identity, key) for key in keys] for model, own in asked.items()}
    clusters = tuple(first.clusters[key] for key in keys)

    def column(name: str) -> dict[str, list[float]]:
        return {model: [float(entry[name]) for entry in own] for model, own in entries.items()}

    loss = measures.of_ratios(OWN_LOSS, "nats/token", column("weighted_nll"), column("weight"), "lower", clusters)
    hits = measures.of_ratios("own/token_accuracy", "share", column("hits"), column("tokens"), "higher", clusters)
    found = [loss, loss.exponential("own/perplexity"), hits]
    if len(loss.differences) < len(asked) - 1:  # other tokens
        characters = {model: [float(first.characters[key]) for key in keys] for model in asked}
        found.append(measures.of_ratios(OWN_TEXT_LOSS, "nats/character", column("nll"), characters, "lower", clusters))
    return [*found, *_of_answers(asked, records)] if all(own.answers for own in asked.values()) else found


def _common(keys: Sequence[str], of_all: Iterable[Sequence[str]]) -> list[str]:
    """Those that all have, in order."""
    shared = set.intersection(*map(set, of_all))
    return [key for key in keys if key in shared]


def _common_answers(asked: Mapping[str, OwnData]) -> list[str]:
    """Keys of the prompts that all models have answered."""
    of_all = [own.answers.keys if own.answers else () for own in asked.values()]
    return _common(of_all[0], of_all)


def said(own: OwnData, records: Records, keys: Sequence[str]) -> list[tuple[str, str, str, bool]]:
    """Prompt, reference, answer and whether it ended, of these prompts of a model."""
    if own.answers is None:
        return []
    prompts = dict(zip(own.answers.keys, own.answers.prompts, strict=True))
    entries = [(prompts[key], records.get(own.answers.identity, key)) for key in keys]
    return [(row.text, row.reference, str(entry["answer"]), bool(entry["ended"])) for row, entry in entries]


def samples(asked: Mapping[str, OwnData], records: Mapping[str, Records]) -> list[dict[str, Any]]:
    """Some questions with the answers of all models."""
    keys = _common_answers(asked)[:_MOST_SAMPLES]
    by_model = {model: said(own, records[model], keys) for model, own in asked.items()}
    first = next(iter(by_model.values()))
    return [
        {"prompt": prompt, "reference": reference, "answers": {model: own[i][2] for model, own in by_model.items()}}
        for i, (prompt, reference, _, _) in enumerate(first)
    ]


def _of_answers(asked: Mapping[str, OwnData], records: Mapping[str, Records]) -> list[Measure]:
    keys = _common_answers(asked)
    clusters = tuple(next(iter(asked.values())).clusters[key] for key in keys)
    by_model = {model: said(own, records[model], keys) for model, own in asked.items()}
    texts = {model: [answer.strip() for _, _, answer, _ in own] for model, own in by_model.items()}
    references = [reference for _, reference, _, _ in next(iter(by_model.values()))]
    ended = {model: [one[3] for one in own] for model, own in by_model.items()}
    stuck = {model: list(map(text_scores.is_repetition_collapse, own)) for model, own in texts.items()}
    found = [
        measures.of_shares(ENDED, ended, "higher", clusters),
        measures.of_shares(REPETITION, stuck, "lower", clusters),
        measures.of_means("own/length", "characters", _each(texts, len), None, clusters),
    ]
    if all(references):
        return [*found, *_against(texts, references, clusters)]
    num_empty = sum(not reference for reference in references)
    logger.warning("own data: %s answers of the rows are empty: no scores against them", f"{num_empty:,}")
    return found


def _each(texts: Mapping[str, list[str]], score: Any) -> dict[str, list[float]]:
    return {model: [float(score(text)) for text in own] for model, own in texts.items()}


def _against(texts: Mapping[str, list[str]], references: list[str], clusters: tuple[int, ...]) -> list[Measure]:
    """Scores against what should have been answered."""
    same = {
        model: [text_scores.is_exact_match(text, reference) for text, reference in zip(own, references, strict=True)]
        for model, own in texts.items()
    }
    found = [measures.of_shares("own/exact_match", same, "higher", clusters)]
    if not text_scores.has_packages():
        return found
    rouge = {model: text_scores.rouge(own, references) for model, own in texts.items()}
    for name in ("rouge1", "rouge2", "rougeL"):
        of_rows = {model: of_model[name] for model, of_model in rouge.items()}
        found.append(measures.of_means(f"own/{name}", "%", of_rows, "higher", clusters))
    for name, score in (("bleu", text_scores.bleu), ("chrf", text_scores.chrf)):
        scored = {model: score(own, references) for model, own in texts.items()}
        whole, rows = {m: one.value for m, one in scored.items()}, {m: one.rows for m, one in scored.items()}
        found.append(measures.of_all(f"own/{name}", "%", whole, "higher", len(references)))
        found.append(measures.of_means(f"own/sentence_{name}", "%", rows, "higher", clusters))
    as_theirs = {
        model: [as_llamafactory(text, reference) for text, reference in zip(own, references, strict=True)]
        for model, own in texts.items()
    }
    for name in next(iter(as_theirs.values()))[0]:
        by_row = {model: [one[name] for one in own] for model, own in as_theirs.items()}
        found.append(measures.of_means(f"own/as_llamafactory/{name}", "%", by_row, "higher", clusters))
    return found
