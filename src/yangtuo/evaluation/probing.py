"""The probe set as tasks of a model, and what it knew of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from yangtuo.data.templates import Template
from yangtuo.data.tokenizer import Tokenizer
from yangtuo.evaluation import measures, tasks
from yangtuo.evaluation.measures import Measure
from yangtuo.evaluation.probe_checks import passes
from yangtuo.evaluation.probe_items import LANGUAGES, CheckedItem, ChoiceItem, Item, Passage, best_option
from yangtuo.evaluation.records import Records
from yangtuo.evaluation.tasks import AnswerTask, LikelihoodTask
from yangtuo.evaluation.text_scores import is_repetition_collapse

_MOST_TOKENS = 64  # of an answer that a rule looks at


@dataclass(frozen=True)
class Probe:
    """What a model is asked of a probe set.

    Attributes:
        choices: questions whose options are read.
        checked: instructions that are answered.
        passages: texts that are read.
        tasks: all of it as tasks.
    """

    choices: tuple[ChoiceItem, ...]
    checked: tuple[CheckedItem, ...]
    passages: tuple[Passage, ...]
    tasks: tuple[LikelihoodTask | AnswerTask, ...]


def probe(tokenizer: Tokenizer, template: Template, items: Sequence[Item]) -> Probe:
    """The items as this model reads them.

    Raises:
        DataError: the template cannot ask a plain question.
    """
    choices = tuple(item for item in items if isinstance(item, ChoiceItem))
    checked = tuple(item for item in items if isinstance(item, CheckedItem))
    passages = tuple(item for item in items if isinstance(item, Passage))
    asked: list[LikelihoodTask | AnswerTask] = []
    if choices:
        rows = tasks.answers_of_options(tokenizer, template, [(item.prompt, item.options) for item in choices])
        keys = tuple(f"{item.id}/{n}" for item in choices for n in range(len(item.options)))
        asked.append(LikelihoodTask("probe", rows, keys))
    if passages:
        texts = tasks.plain_texts(tokenizer, [item.text for item in passages])
        asked.append(LikelihoodTask("passages", texts, tuple(item.id for item in passages)))
    if checked:
        prompts = tasks.questions(tokenizer, template, [item.prompt for item in checked])
        asked.append(AnswerTask("probe", prompts, tuple(item.id for item in checked), _MOST_TOKENS))
    return Probe(choices, checked, passages, tuple(asked))


def passed(asked: Probe, records: Records) -> dict[str, bool]:
    """By the id of a question or an instruction, whether the model's answer was right."""
    by_name = {(task.name, type(task)): task.identity for task in asked.tasks}
    found = {}
    for item in asked.choices:
        identity = by_name["probe", LikelihoodTask]
        entries = [records.get(identity, f"{item.id}/{n}") for n in range(len(item.options))]
        found[item.id] = best_option([-float(entry["nll"]) for entry in entries]) == item.answer
    for checked in asked.checked:
        answer = str(records.get(by_name["probe", AnswerTask], checked.id)["answer"])
        found[checked.id] = passes(checked.check, answer) and not is_repetition_collapse(answer)
    return found


def compare(asked: Mapping[str, Probe], records: Mapping[str, Records]) -> list[Measure]:
    """Share of right answers, over all, by language and by kind; and the loss on passages."""
    first = next(iter(asked.values()))
    hits = {model: passed(own, records[model]) for model, own in asked.items()}
    groups: dict[str, list[str]] = {}
    items: list[ChoiceItem | CheckedItem] = [*first.choices, *first.checked]
    for language in (None, *LANGUAGES):
        for item in items:
            if language is None:
                groups.setdefault("probe/accuracy", []).append(item.id)
            elif item.language == language:
                for name in ("accuracy", item.kind):
                    groups.setdefault(f"probe/{language}/{name}", []).append(item.id)
    found = [
        measures.of_shares(name, {model: [own[i] for i in ids] for model, own in hits.items()}, "higher")
        for name, ids in groups.items()
    ]
    return [*found, *_losses(asked, records)]


def changed(asked: Mapping[str, Probe], records: Mapping[str, Records]) -> dict[str, list[str]]:
    """Ids of items that the last model fails and the first did not ("lost"), and the other way round ("gained")."""
    before, *_, after = [passed(own, records[model]) for model, own in asked.items()]
    lost = [name for name, was_right in before.items() if was_right and not after[name]]
    return {"lost": lost, "gained": [name for name, was_right in before.items() if not was_right and after[name]]}


def _losses(asked: Mapping[str, Probe], records: Mapping[str, Records]) -> list[Measure]:
    passages = next(iter(asked.values())).passages
    if not passages:
        return []
    entries = {}
    for model, own in asked.items():
        identity = next(task.identity for task in own.tasks if task.name == "passages")
        entries[model] = {passage.id: records[model].get(identity, passage.id) for passage in passages}
    groups = {"probe/loss": [passage.id for passage in passages]}
    for language in LANGUAGES:
        groups[f"probe/{language}/loss"] = [passage.id for passage in passages if passage.language == language]

    def column(name: str, ids: list[str]) -> dict[str, list[float]]:
        return {model: [float(own[i][name]) for i in ids] for model, own in entries.items()}

    def tokens(ids: list[str]) -> dict[str, list[float]]:
        """Of the first model: the texts are the same, so that a model of another tokenizer is compared by them too."""
        return dict.fromkeys(entries, next(iter(column("tokens", ids).values())))

    return [
        measures.of_ratios(name, "nats/token", column("nll", ids), tokens(ids), "lower")
        for name, ids in groups.items()
        if ids
    ]
