"""What became of the data, as numbers: for the screen, and for `data_audit.json`."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from yangtuo.data.encoding_cache import EncodedFiles
from yangtuo.data.examples import Examples, RowOutcome
from yangtuo.data.readers.reader import as_json
from yangtuo.i18n import Message, gettext_noop

_NUM_BARS = 12
OUTCOMES = {
    RowOutcome.TURNS_LOST: "dialogues_without_their_oldest_turns",
    RowOutcome.PROMPT_CUT: "prompts_shortened",
    RowOutcome.ANSWER_CUT: "answers_shortened_at_a_sentence_end",
    RowOutcome.ANSWER_CUT_OPEN: "answers_cut_in_mid_sentence",
    RowOutcome.RIGHT_CUT: "rows_cut_from_the_right",
    RowOutcome.ANSWERS_LOST: "dialogues_without_some_answers",
    RowOutcome.EMPTY_ANSWER: "empty_answers",
    RowOutcome.SPECIAL_TEXT: "rows_with_special_text",
    RowOutcome.NO_SYSTEM: "rows_that_ask_for_no_system_prompt",
    RowOutcome.EMPTY_THOUGHT: "rows_with_an_empty_block_for_thoughts",
    RowOutcome.UNUSED_KWARGS: "rows_with_chat_template_kwargs_that_are_not_used",
    RowOutcome.AS_SERVED: "dialogues_rendered_otherwise_in_the_history",
}


def audit(examples: Examples, stored: EncodedFiles, end_id: int) -> dict[str, Any]:
    """Counts over the encoded rows.

    Args:
        examples: the rows that are used, all those stored or a part.
        stored: what they were taken from.
        end_id: the id that ends an answer.
    """
    lengths, num_supervised = examples.lengths(), examples.num_supervised()
    ends = examples.ends_trained([end_id])
    return {
        "files": [
            {**asdict(source), **_of_file(examples, number, lengths, num_supervised)}
            for number, source in enumerate(stored.sources)
        ],
        "rows_read": sum(source.num_rows for source in stored.sources),
        "rows_kept": examples.num_rows(),
        "examples": len(examples),
        "rows_that_cannot_be_used": stored.num_bad,
        "rows_dropped": stored.reasons,
        **{name: examples.num_with(outcome) for outcome, name in OUTCOMES.items()},
        "special_texts": stored.special,
        "rows_with_trained_end_token": int(ends.sum()),
        "tokens": int(lengths.sum()),
        "supervised_tokens": int(num_supervised.sum()),
        "weights_differ": examples.weights is not None,
        "row_tokens": {
            **{"min": int(lengths.min()), "median": int(np.median(lengths)), "max": int(lengths.max())},
            **{f"p{share}": int(np.percentile(lengths, share)) for share in (90, 99)},
        },
        "histogram": histogram(lengths),
    }


def _of_file(examples: Examples, number: int, lengths: Any, num_supervised: Any) -> dict[str, Any]:
    own = examples.source_numbers == number
    cut = (
        RowOutcome.TURNS_LOST
        | RowOutcome.PROMPT_CUT
        | RowOutcome.ANSWER_CUT
        | RowOutcome.ANSWER_CUT_OPEN
        | RowOutcome.RIGHT_CUT
        | RowOutcome.ANSWERS_LOST
    )
    return {
        "rows_kept": examples.num_rows(own),
        "rows_cut": examples.num_rows(own & ((examples.outcomes & int(cut)) > 0)),
        "tokens": int(lengths[own].sum()),
        "supervised_tokens": int(num_supervised[own].sum()),
        "median_tokens": int(np.median(lengths[own])) if own.any() else 0,
    }


def histogram(lengths: Any) -> list[dict[str, int]]:
    """Rows by length, in at most a dozen ranges of round width; both ends of a range belong to it."""
    widths = (base * 10**power for power in range(9) for base in (1, 2, 5))
    width = next(width for width in widths if int(lengths.max()) // width < _NUM_BARS)
    counts = np.bincount(lengths // width)
    first = int(np.flatnonzero(counts)[0])
    return [
        {"from": i * width, "to": (i + 1) * width - 1, "rows": int(count)}
        for i, count in enumerate(counts)
        if i >= first
    ]


def dropped_rows(stored: Sequence[EncodedFiles]) -> list[dict[str, Any]]:
    """Rows that are not trained on, with their reasons, for a file."""
    return [as_json(one) for part in stored for one in part.dropped]


def summary(name: str, report: dict[str, Any]) -> list[str]:
    """The lines that a person reads before the run starts."""
    share = report["supervised_tokens"] / report["tokens"]
    row = report["row_tokens"]
    lines: list[str] = [
        Message(
            "{name}: {rows_kept:,} of {rows_read:,} rows from {num_files} file(s), {tokens:,} tokens "
            "({min}-{max} a row, median {median}), {share:.0%} carry the loss; the end token is trained "
            "in {rows_with_trained_end_token:,} rows",
            name=name,
            rows_kept=report["rows_kept"],
            rows_read=report["rows_read"],
            num_files=len(report["files"]),
            tokens=report["tokens"],
            min=row["min"],
            max=row["max"],
            median=row["median"],
            share=share,
            rows_with_trained_end_token=report["rows_with_trained_end_token"],
        )
    ]
    few = _few(report["special_texts"])
    told = {
        "rows_set_aside_for_evaluation": gettext_noop("  {count:,} rows set aside for evaluation"),
        "repeated_rows_left_out": gettext_noop("  {count:,} repeated rows left out (--deduplicate)"),
        "rows_that_cannot_be_used": gettext_noop("  {count:,} rows cannot be used and are dropped"),
        "dialogues_without_their_oldest_turns": gettext_noop("  {count:,} dialogues lost their oldest turns to fit"),
        "prompts_shortened": gettext_noop("  {count:,} prompts shortened to fit"),
        "answers_shortened_at_a_sentence_end": gettext_noop("  {count:,} answers shortened at a sentence end"),
        "answers_cut_in_mid_sentence": gettext_noop(
            "  {count:,} answers cut in mid-sentence (these keep no end token)"
        ),
        "rows_cut_from_the_right": gettext_noop("  {count:,} rows cut from the right (these lose their end token)"),
        "dialogues_without_some_answers": gettext_noop(
            "  {count:,} dialogues lost answers that are examples of their own and did not fit"
        ),
        "empty_answers": gettext_noop("  {count:,} empty answers: the model learns to say nothing to them"),
        "rows_with_chat_template_kwargs_that_are_not_used": gettext_noop(
            "  {count:,} rows have chat_template_kwargs that the template does not use"
        ),
        "rows_that_ask_for_no_system_prompt": gettext_noop(
            "  {count:,} rows ask for no system prompt (theirs is empty, not left out)"
        ),
        "rows_with_special_text": gettext_noop("  {count:,} rows hold text like a control token: {few}"),
    }
    lines += [f"  {one['path']}: {one['layout']}" for one in report["files"] if one["layout"]]
    lines += [Message(text, count=report[key], few=few) for key, text in told.items() if report.get(key)]
    lines += list(_of_history(report))
    lines += [
        Message("  {count:,} rows dropped: {reason}", count=count, reason=reason)
        for reason, count in report["rows_dropped"].items()
    ]
    return lines


def _of_history(report: dict[str, Any]) -> Iterator[str]:
    """What the chat template does with earlier answers, and what was made of it."""
    more = report["examples"] - report["rows_kept"]
    dialogues, blocks = (report[OUTCOMES[one]] for one in (RowOutcome.AS_SERVED, RowOutcome.EMPTY_THOUGHT))
    if dialogues and more:
        yield Message(
            "  {dialogues:,} dialogues whose earlier answers the template renders otherwise in the history; each is an "
            "example of its own, as a server would ask for it: {more:,} examples more",
            dialogues=dialogues,
            more=more,
        )
    elif dialogues:
        yield Message(
            "  {dialogues:,} dialogues whose earlier answers the template renders otherwise in the history; the last "
            "ones alone carry a loss (--history one_example)",
            dialogues=dialogues,
        )
    if blocks:
        yield Message(
            "  {blocks:,} rows with an empty block for thoughts before an answer, which carries no loss; ask the "
            "model without thoughts too (enable_thinking=false)",
            blocks=blocks,
        )


def _few(counts: dict[str, int]) -> str:
    most = sorted(counts.items(), key=lambda pair: -pair[1])
    shown = ", ".join(f"{text} ({count:,})" for text, count in most[:4])
    return Message("{shown} and others", shown=shown) if len(most) > 4 else shown
