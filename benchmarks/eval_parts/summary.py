"""Rates, ratios within rounds, whether all found the same, and the table."""

import statistics
from collections.abc import Sequence
from typing import Any

from eval_parts.measure import Found, Run
from yangtuo.evaluation.choice_files import LETTERS

MOST_OFF = 1e-3  # nats, between log-probabilities of two contenders in float32


def largest_difference(one: Found, other: Found) -> float:
    """Of the log-probabilities of the rows that both have, in nats; 0 without any."""
    return max((abs(one[key] - other[key]) for key in one if key in other), default=0.0)


def letters(found: Found) -> dict[str, str]:
    """The likeliest letter of each question, by "subject/number"."""
    questions = dict.fromkeys(key.rpartition("/")[0] for key in found)
    return {question: max(LETTERS, key=lambda letter: found[f"{question}/{letter}"]) for question in questions}


def num_different(one: Found, other: Found) -> int:
    """Rows that both have and of which they say otherwise."""
    return sum(one[key] != other[key] for key in one if key in other)


def summarise(rounds: Sequence[Sequence[Run]], *, are_choices: bool) -> dict[str, dict[str, Any]]:
    """One entry a contender: medians over rounds, ratios of rates taken within a round, what was found."""
    ours = next(run for run in rounds[0] if run.contender == "ours")
    summary = {}
    for name in [run.contender for run in rounds[0]]:
        runs = [next(run for run in of_round if run.contender == name) for of_round in rounds]
        entry: dict[str, Any] = {
            "rows": runs[0].rows,
            "cells_per_row": runs[0].cells / runs[0].rows,
            "rows_per_s": statistics.median(run.rows / run.seconds for run in runs),
            "rows_per_processor_s": statistics.median(run.rows / run.processor_seconds for run in runs),
        }
        if name != "ours":
            pairs = [
                (next(r for r in of_round if r.contender == "ours"), run)
                for of_round, run in zip(rounds, runs, strict=True)
            ]
            entry["ours_is_faster"] = [(a.rows / a.seconds) / (b.rows / b.seconds) for a, b in pairs]
            entry["ours_is_faster_by_processor"] = [
                (a.rows / a.processor_seconds) / (b.rows / b.processor_seconds) for a, b in pairs
            ]
        found = [run.found for run in runs]
        if are_choices:
            entry["largest_difference"] = max(largest_difference(one, ours.found) for one in found)
            entry["different"] = sum(num_different(letters(one), letters(ours.found)) for one in found)
        else:
            entry["different"] = sum(num_different(one, ours.found) for one in found)
        summary[name] = entry
    return summary


def faults(summary: dict[str, dict[str, Any]], what: str) -> list[str]:
    """Contenders that did not find what yangtuo found, a sentence each."""
    told = []
    for name, entry in summary.items():
        if entry["different"]:
            told.append(f"{name}: {entry['different']} of its {what} differ from yangtuo's")
        if entry.get("largest_difference", 0) > MOST_OFF:
            told.append(f"{name}: log-probabilities are off by {entry['largest_difference']:.2g}, at most {MOST_OFF:g}")
    return told


def table(summary: dict[str, dict[str, Any]]) -> str:
    """The result as aligned text."""
    lines = [["contender", "rows", "cells/row", "rows/s", "rows/processor s", "ours is faster", "by processor time"]]
    for name, entry in summary.items():
        numbers = [str(entry["rows"]), f"{entry['cells_per_row']:,.1f}", f"{entry['rows_per_s']:.2f}"]
        ratios = [_ratios(entry.get(key)) for key in ("ours_is_faster", "ours_is_faster_by_processor")]
        lines.append([name, *numbers, f"{entry['rows_per_processor_s']:.2f}", *ratios])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            word.ljust(width) if n == 0 else word.rjust(width)
            for n, (word, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def _ratios(values: Sequence[float] | None) -> str:
    if not values:
        return ""
    told = f"{statistics.median(values):.2f}"
    return told if len(values) == 1 else f"{told} ({min(values):.2f}-{max(values):.2f})"
