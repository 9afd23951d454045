"""What became of the data, as numbers: for the screen, and for `data_audit.json`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from yangtuo.data.encoding import Counts, Examples
from yangtuo.data.records import Source


def audit(examples: Examples, counts: Counts, sources: Sequence[Source], eos_id: int) -> dict[str, Any]:
    """Counts over the encoded rows; every dropped row is listed with its reason."""
    lengths, num_supervised = examples.lengths(), examples.num_supervised()
    last = examples.offsets[1:] - 1
    ends = (examples.input_ids[last] == eos_id) & examples.supervised[last]
    return {
        "files": [vars(source) for source in sources],
        "rows_read": counts.num_read,
        "rows_kept": len(examples),
        "rows_set_aside_for_evaluation": counts.num_kept - len(examples),
        "rows_dropped": dict(counts.reasons()),
        "dropped": [{"file": f, "row": r, "reason": reason} for f, r, reason in counts.dropped],
        "prompts_shortened": counts.prompt_cut,
        "answers_shortened_at_a_sentence_end": counts.answer_cut,
        "answers_cut_in_mid_sentence": counts.answer_cut_open,
        "rows_cut_from_the_right": counts.right_cut,
        "empty_answers": counts.empty_answers,
        "rows_with_trained_end_token": int(ends.sum()),
        "tokens": int(lengths.sum()),
        "supervised_tokens": int(num_supervised.sum()),
        "row_tokens": {"min": int(lengths.min()), "median": int(np.median(lengths)), "max": int(lengths.max())},
    }


def summary(name: str, report: dict[str, Any]) -> list[str]:
    """The lines that a person reads before the run starts."""
    share = report["supervised_tokens"] / report["tokens"]
    row = report["row_tokens"]
    lines = [
        f"{name}: {report['rows_kept']:,} of {report['rows_read']:,} rows from {len(report['files'])} file(s), "
        f"{report['tokens']:,} tokens ({row['min']}-{row['max']} a row, median {row['median']}), "
        f"{share:.0%} carry the loss; the end token is trained in {report['rows_with_trained_end_token']:,} rows"
    ]
    told = {
        "rows_set_aside_for_evaluation": "rows set aside for evaluation",
        "prompts_shortened": "prompts shortened to fit",
        "answers_shortened_at_a_sentence_end": "answers shortened at a sentence end",
        "answers_cut_in_mid_sentence": "answers cut in mid-sentence (these keep no end token)",
        "rows_cut_from_the_right": "rows cut from the right (these lose their end token)",
        "empty_answers": "empty answers: the model learns to say nothing to them",
    }
    lines += [f"  {report[key]:,} {text}" for key, text in told.items() if report[key]]
    lines += [f"  {count:,} rows dropped: {reason}" for reason, count in report["rows_dropped"].items()]
    return lines
