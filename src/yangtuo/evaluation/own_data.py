"""The user's own rows: their loss, and what a model answers to them beside what it should have answered."""

from collections.abc import Mapping
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
from yangtuo.evaluation.verdict import ENDED, OWN_LOSS, REPETITION

_MOST_SAMPLES = 20


@dataclass(frozen=True)
class OwnData:
    """What a model is asked of the user's rows.

    Attributes:
        rows: that are read.
        clusters: for each of them, what it shares with others: its dialogue, or its prompt.
        answers: prompts of some rows; None where none are to be answered.
        clusters_of_answers: the same of the prompts.
    """

    rows: LikelihoodTask
    clusters: tuple[int, ...]
    answers: AnswerTask | None
    clusters_of_answers: tuple[int, ...] = ()

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
    keys = tuple(map(str, range(len(examples))))
    firsts = examples.firsts()
    of_prompt = examples.hashes[firsts, 1][examples.row_numbers()]
    clusters = tuple(map(int, np.unique(of_prompt, return_inverse=True)[1]))
    rows = LikelihoodTask("own", examples, keys)
    if not num_answers:
        return OwnData(rows, clusters, None)
    lasts = np.array([*firsts[1:], len(examples)]) - 1
    chosen = lasts[np.unique(np.linspace(0, len(lasts) - 1, min(num_answers, len(lasts))).astype(int))]
    prompts = tuple(prompt_rows.of_examples(tokenizer, template, examples, chosen.tolist()))
    answers = AnswerTask("own", prompts, tuple(keys[i] for i in chosen), max_new_tokens)
    return OwnData(rows, clusters, answers, tuple(clusters[i] for i in chosen))


def compare(asked: Mapping[str, OwnData], records: Mapping[str, Records]) -> list[Measure]:
    """The measures of all models, the first of which is the one that others are compared with."""
    entries = {
        model: [records[model].get(own.rows.identity, key) for key in own.rows.keys] for model, own in asked.items()
    }
    clusters = next(iter(asked.values())).clusters

    def column(name: str) -> dict[str, list[float]]:
        return {model: [float(entry[name]) for entry in own] for model, own in entries.items()}

    loss = measures.of_ratios(OWN_LOSS, "nats/token", column("weighted_nll"), column("weight"), "lower", clusters)
    hits = measures.of_ratios("own/token_accuracy", "share", column("hits"), column("tokens"), "higher", clusters)
    found = [loss, loss.exponential("own/perplexity"), hits]
    return [*found, *_of_answers(asked, records)] if all(own.answers for own in asked.values()) else found


def said(own: OwnData, records: Records) -> list[tuple[str, str, str, bool]]:
    """Prompt, reference, answer and whether it ended, of all prompts of a model."""
    if own.answers is None:
        return []
    entries = [records.get(own.answers.identity, key) for key in own.answers.keys]
    return [
        (prompt.text, prompt.reference, str(entry["answer"]), bool(entry["ended"]))
        for prompt, entry in zip(own.answers.prompts, entries, strict=True)
    ]


def samples(asked: Mapping[str, OwnData], records: Mapping[str, Records]) -> list[dict[str, Any]]:
    """Some questions with the answers of all models."""
    by_model = {model: said(own, records[model]) for model, own in asked.items()}
    first = next(iter(by_model.values()))[:_MOST_SAMPLES]
    return [
        {"prompt": prompt, "reference": reference, "answers": {model: own[i][2] for model, own in by_model.items()}}
        for i, (prompt, reference, _, _) in enumerate(first)
    ]


def _of_answers(asked: Mapping[str, OwnData], records: Mapping[str, Records]) -> list[Measure]:
    clusters = next(iter(asked.values())).clusters_of_answers
    by_model = {model: said(own, records[model]) for model, own in asked.items()}
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
        found += _against(texts, references, clusters)
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
