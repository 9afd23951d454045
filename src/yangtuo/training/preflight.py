"""What a training run would train on, told before any weight is loaded: `yangtuo check` prints it. Imports no torch."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yangtuo.config.choices import BadRows, DataOrder
from yangtuo.config.settings import Settings
from yangtuo.data import dedup, measures
from yangtuo.data.encoding_options import num_too_long
from yangtuo.data.examples import Examples
from yangtuo.data.own_system import own_system
from yangtuo.engine import planning
from yangtuo.engine.layout import common_prefixes
from yangtuo.i18n import Listed, Message
from yangtuo.model.weight_names import check_described, num_rows_of
from yangtuo.training import sample_prompts
from yangtuo.training.advice import Advice
from yangtuo.training.dataset import (
    Corpus,
    encode_data,
    folders,
    open_data,
    split_and_audit,
    tell_without_effect,
    wants_evaluation,
)
from yangtuo.training.plan import advice_of, num_steps, refused_rate, step_shape

_ROWS_LOOKED_AT = 500
_STEPS_LOOKED_AT = 50
_ROWS_COMPARED = 10_000  # for near repeats
_FEW_STEPS = 20
_MOST_LOST = 0.05  # of the rows
_LEAST_ENDS = 0.99  # of the kept rows have a trained end token
_MANY_SHORTENED = 0.05
_MANY_REPEATS = 0.05
_MANY_TOKENS = 1.2  # for a Chinese character; LLaMA's own 32,000 take about 1.5, with 20,000 Chinese pieces about 0.6


@dataclass(frozen=True)
class Finding:
    """Something that a person should look at; `is_bad` where training would be a mistake."""

    is_bad: bool
    text: str


@dataclass(frozen=True)
class Preflight:
    """What a run would train on: the corpus, the report of it as JSON values, and the base's folder if it has one."""

    corpus: Corpus
    report: dict[str, Any]
    base: Path | None

    def add(self, text: str) -> None:
        """Something more to look at."""
        self.report["findings"].append(asdict(Finding(False, text)))
        self.report["verdict"] = "look" if self.report["verdict"] == "good" else self.report["verdict"]

    @property
    def reasons_against(self) -> list[str]:
        """Why the rows should not be trained on, if there is a reason."""
        return [finding["text"] for finding in self.report["findings"] if finding["is_bad"]]


def preflight(settings: Settings, place: str) -> Preflight:
    """Read, encode and judge what a run with these settings would train on; nothing is written.

    Args:
        settings: of the run.
        place: where a user finds the rows that are dropped, for the findings.

    Raises:
        DataError: the data cannot be used.
        ModelError: the base's files are not what its config.json describes.
    """
    if not wants_evaluation(settings):
        unused = ("validation_split_percentage",)
        tell_without_effect(settings, unused, Message("neither --do_eval nor --eval_strategy is given"))
    base, adapter = folders(settings)
    opened = open_data(settings, base, adapter)
    if base:
        check_described(base)
    seed = settings.trainer.seed
    corpus = split_and_audit(settings, *encode_data(settings, opened), opened.end_id, seed)
    sample_prompts.find(settings, opened, corpus.validation, seed)
    rows = measures.sample(len(corpus.train), _ROWS_LOOKED_AT, seed)
    report = {
        **corpus.audits,
        "template": opened.template.name,
        "system_prompt_of_rows_without_one": own_system(opened.template),
        "tokenizer": {"folder": str(opened.tokenizer.folder), "num_tokens": opened.tokenizer.num_tokens},
        "max_seq_length": settings.data.max_seq_length,
        "fit": asdict(measures.fit_of(corpus.train, rows, opened.tokenizer)),
        "steps": _steps(settings, corpus),
        "savings": _savings(settings, corpus.train, seed),
        "near_repeated_rows": _near_repeats(corpus.train),
    }
    findings = list(_findings(settings, report, place))
    if base and settings.lora.train_new_tokens_only and (adapter is None or settings.lora.new_adapter):
        why = measures.no_new_token(opened.tokenizer, num_rows_of(base), corpus.train)
        findings += [Finding(True, why)] if why else []
    report["advice"] = None
    if base and (advised := advice_of(settings, base, adapter, corpus)):
        report["advice"] = asdict(advised[0])
        findings += _advised(advised[0], refused_rate(settings, base), is_forced=settings.run.force_learning_rate)
    report["findings"] = [asdict(finding) for finding in findings]
    report["verdict"] = "bad" if any(f.is_bad for f in findings) else "look" if findings else "good"
    return Preflight(corpus, report, base)


def _advised(advice: Advice, refused: str, *, is_forced: bool) -> list[Finding]:
    """The findings; a rate that is refused is the first of them, and said as training says it."""
    bad = [refused] if refused and not is_forced else []
    return [Finding(True, why) for why in bad] + [Finding(False, text) for text in advice.findings[len(bad) :]]


def _steps(settings: Settings, corpus: Corpus) -> dict[str, Any]:
    shape = step_shape(settings)
    num_rows, drop_last = corpus.num_rows_of_epoch(), settings.trainer.dataloader_drop_last
    epochs, most = settings.trainer.num_train_epochs, settings.trainer.max_steps
    per_epoch = shape.num_steps(num_rows, drop_last=drop_last)
    return {
        "rows_of_an_epoch": num_rows,
        "rows_by_file": dict(zip(corpus.train.paths, corpus.rows_by_file(), strict=True)),
        "rows_of_a_step": shape.rows_per_step,
        "an_epoch": per_epoch,
        "all": num_steps(settings, per_epoch),
        "told": planning.describe(shape, num_rows, epochs, most, drop_last=drop_last) if per_epoch else [],
    }


def _savings(settings: Settings, examples: Examples, seed: int) -> dict[str, float]:
    """Of what rows padded in groups of `per_device_train_batch_size` would cost, the parts that are not computed."""
    group = settings.trainer.per_device_train_batch_size
    rows_of_step = group * settings.trainer.gradient_accumulation_steps
    order = planning.rows_in_order(examples, None, 0, seed, DataOrder.SHUFFLED)
    lengths, supervised = examples.lengths(), examples.num_supervised()
    padded = tokens = cells = heads = 0
    for begin in range(0, min(len(order), rows_of_step * _STEPS_LOOKED_AT), rows_of_step):
        rows = order[begin : begin + rows_of_step]
        for first in range(0, len(rows), group):
            own = lengths[rows[first : first + group]]
            padded += len(own) * int(own.max())
        tokens += int(lengths[rows].sum())
        shared = sum(shared for _, shared in common_prefixes([examples.row(int(row))[0] for row in rows]))
        cells += int(lengths[rows].sum()) - shared
        heads += int(supervised[rows].sum())
    return {
        "padding": 1 - tokens / padded,
        "shared_prefixes": (tokens - cells) / padded,
        "all": 1 - cells / padded,
        "head": 1 - heads / padded,
    }


def _near_repeats(examples: Examples) -> dict[str, int]:
    part = examples.take(np.arange(min(len(examples), _ROWS_COMPARED)))
    return {"rows_compared": part.num_rows(), "repeats": part.num_rows(dedup.near_repeats(part))}


def _findings(settings: Settings, report: dict[str, Any], place: str) -> Iterator[Finding]:
    train, fit, steps = report["train"], report["fit"], report["steps"]
    kept = train["examples"]
    yield from _lost_findings(train, settings.data.bad_rows, place)
    yield from _end_findings(train, settings.data.max_seq_length)
    if not steps["an_epoch"]:
        yield Finding(
            True,
            Message(
                "{kept:,} rows are fewer than the {rows_of_a_step} of a step, which is left out",
                kept=kept,
                rows_of_a_step=steps["rows_of_a_step"],
            ),
        )
    elif steps["all"] < _FEW_STEPS:
        yield Finding(False, _too_few(settings, steps))
    yield from _text_findings(train, fit, report)
    shared = report.get("validation", {}).get("prompts_also_trained_on", 0)
    if shared:
        yield Finding(False, Message("{shared:,} validation rows have a prompt that is trained on too", shared=shared))


def _lost_findings(train: dict[str, Any], bad_rows: BadRows, place: str) -> Iterator[Finding]:
    """On rows that are not trained on. Those that a user asked to leave out speak against nothing."""
    read, reasons = train["rows_read"], train["rows_dropped"]
    all_lost = train["rows_that_cannot_be_used"] + sum(reasons.values())
    lost = num_too_long(reasons) if bad_rows is BadRows.DROP else all_lost
    if lost > _MOST_LOST * read:
        yield Finding(
            True,
            Message(
                "{lost:,} of {read:,} rows are lost ({share:.0%}); {place}",
                lost=lost,
                read=read,
                share=lost / read,
                place=place,
            ),
        )
    if all_lost - lost > _MOST_LOST * read:
        yield Finding(
            False,
            Message(
                "{lost:,} of {read:,} rows are left out, as --bad_rows drop asks; the other {kept:,} can be trained on",
                lost=all_lost - lost,
                read=read,
                kept=read - all_lost,
            ),
        )


def _end_findings(train: dict[str, Any], max_seq_length: int) -> Iterator[Finding]:
    """On the ends of answers."""
    kept, ends = train["examples"], train["rows_with_trained_end_token"]
    if ends < _LEAST_ENDS * kept:
        yield Finding(
            True,
            Message(
                "only {ends:,} of {kept:,} rows teach where an answer ends ({share:.0%}); raise "
                "--max_seq_length {max_seq_length}, or --truncation drop",
                ends=ends,
                kept=kept,
                share=ends / kept,
                max_seq_length=max_seq_length,
            ),
        )
    elif ends < kept:
        yield Finding(
            False,
            Message(
                "{kept:,} answers are cut in mid-sentence; --max_seq_length would keep them whole", kept=kept - ends
            ),
        )
    shortened = train["answers_shortened_at_a_sentence_end"]
    if shortened > _MANY_SHORTENED * kept:
        yield Finding(
            False,
            Message(
                "{shortened:,} of {kept:,} answers are shortened ({share:.0%}): the model learns short "
                "ones; a larger --max_seq_length than {max_seq_length} would keep them whole",
                shortened=shortened,
                kept=kept,
                share=shortened / kept,
                max_seq_length=max_seq_length,
            ),
        )


def _too_few(settings: Settings, steps: dict[str, Any]) -> str:
    epochs = int(np.ceil(_FEW_STEPS * 1.5 / steps["an_epoch"]))
    count = steps["all"]
    few = Message("{count} steps are too few to change the model", count=count)
    more = Message("--num_train_epochs {epochs} gives {more}", epochs=epochs, more=epochs * steps["an_epoch"])
    found = [few, more]
    if settings.trainer.gradient_accumulation_steps > 1:
        found.append(Message("or give fewer --gradient_accumulation_steps"))
    elif settings.trainer.per_device_train_batch_size > 1:
        found.append(Message("or give a smaller --per_device_train_batch_size"))
    return Listed(found, "; ")


def _text_findings(train: dict[str, Any], fit: dict[str, Any], report: dict[str, Any]) -> Iterator[Finding]:
    kept, near = train["rows_kept"], report["near_repeated_rows"]
    left_out = train["repeated_rows_left_out"]
    if not left_out and near["repeats"] > _MANY_REPEATS * near["rows_compared"]:
        yield Finding(
            False,
            Message(
                "{repeats:,} of {rows_compared:,} rows are equal or nearly so to an earlier one; "
                "--deduplicate near leaves them out",
                repeats=near["repeats"],
                rows_compared=near["rows_compared"],
            ),
        )
    per_character = fit["tokens_per_chinese"]
    if per_character is not None and per_character > _MANY_TOKENS:
        yield Finding(
            False,
            Message(
                "a Chinese character takes {per_character:.2f} tokens: this tokenizer has few Chinese ones, "
                "so rows are long and slow; Chinese-Alpaca's takes about 0.6",
                per_character=per_character,
            ),
        )
    if train["empty_answers"]:
        yield Finding(
            False,
            Message("{empty_answers:,} of {kept:,} answers are empty", empty_answers=train["empty_answers"], kept=kept),
        )
