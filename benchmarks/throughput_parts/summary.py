"""Rates, ratios and shares over the rounds, and the table that is printed."""

import statistics
from collections.abc import Sequence
from typing import Any

from throughput_parts.runs import Comparison, Run, flop_per_second
from throughput_parts.settings import GIB, is_packed


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and extremes over the rounds."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summarise(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """One entry a contender; ratios are taken within a round and within the rounds in which both ran."""
    return {name: _summary_of(name, comparison) for name in comparison.contenders}


def _summary_of(name: str, comparison: Comparison) -> dict[str, Any]:
    entries = [entries[name] for entries in comparison.rounds if name in entries]
    runs = [entry for entry in entries if isinstance(entry, Run)]
    summary: dict[str, Any] = {"failures": [entry for entry in entries if isinstance(entry, str)]}
    if not runs:
        return summary
    shares, ratios = [], []
    for i, entries_of_round in enumerate(comparison.rounds):
        run, ours = entries_of_round.get(name), entries_of_round.get("ours")
        if not isinstance(run, Run):
            continue
        # Measured before and after the round: the faster of the two is what the machine can.
        bound = max(comparison.matmul_flop_per_s[i : i + 2])
        shares.append(flop_per_second(run, comparison, packed=is_packed(name)) / bound)
        if isinstance(ours, Run):
            ratios.append(run.per_second(run.rows) / ours.per_second(ours.rows))
    device = [run.peak_device_bytes for run in runs if run.peak_device_bytes is not None]
    return summary | {
        "examples_per_s": spread([run.per_second(run.rows) for run in runs]),
        "tokens_per_s": spread([run.per_second(run.tokens) for run in runs]),
        "peak_resident_gib": max(run.peak_resident_bytes for run in runs) / GIB,
        "peak_device_gib": max(device) / GIB if device else None,
        "ratio_to_ours": spread(ratios) if ratios else None,
        "ours_over_it": spread([1 / ratio for ratio in ratios]) if ratios else None,
        "share_of_matmul_bound": spread(shares),
        "seconds_outside_steps_share": spread([max(0.0, 1 - sum(r.step_seconds) / r.loop_seconds) for r in runs]),
    }


def slow_between_steps(summary: dict[str, dict[str, Any]]) -> list[str]:
    """Who spends more than a twentieth of the training loop where no step is timed: its rate would flatter it."""
    shares = {name: entry["seconds_outside_steps_share"]["median"] for name, entry in summary.items() if len(entry) > 1}
    return [f"{name} spent {share:.0%} of its loop outside its steps" for name, share in shares.items() if share > 0.05]


def table(summary: dict[str, dict[str, Any]]) -> str:
    """The result as aligned text."""
    lines = [["contender", "examples/s", "tokens/s", "peak GiB", "to ours", "of the bound"]]
    remarks = []
    for name, entry in summary.items():
        if "examples_per_s" not in entry:
            lines.append([name, "failed", "-", "-", "-", "-"])
        else:
            ratio = _with_spread(entry["ratio_to_ours"], 2) if entry["ratio_to_ours"] else "-"
            peak, device = f"{entry['peak_resident_gib']:.2f}", entry["peak_device_gib"]
            lines.append(
                [
                    name,
                    _with_spread(entry["examples_per_s"], 3),
                    _with_spread(entry["tokens_per_s"], 0),
                    peak if device is None else f"{peak} + {device:.2f} GPU",
                    ratio,
                    _with_spread(entry["share_of_matmul_bound"], 2),
                ]
            )
        remarks += [f"{name} failed: {failure}" for failure in entry["failures"]]
    faster = {name: e["ours_over_it"]["median"] for name, e in summary.items() if e.get("ours_over_it")}
    shown = ", ".join(f"{times:.2f} x {name}" for name, times in faster.items() if name != "ours")
    if shown:
        remarks.insert(0, f"ours: {shown} (examples/s)")
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    aligned = [
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in lines)
    ]
    return "\n".join([*aligned, *remarks])


def _with_spread(values: dict[str, float], digits: int) -> str:
    median, lowest, highest = (f"{values[name]:,.{digits}f}" for name in ("median", "min", "max"))
    return median if lowest == highest else f"{median} ({lowest}-{highest})"
