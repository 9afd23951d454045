"""Everything that has to be measured on a real NVIDIA card, one part after the other; see benchmarks/README.md."""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from circumstances import commit, computer, versions, without_folders
from rich.console import Console

from gpu_day_parts import gpu, plan
from gpu_day_parts.day import SKIPPED, Day, Part
from gpu_day_parts.job import ROOT, Job, answer
from gpu_day_parts.screen import show_parts, show_results
from yangtuo.errors import UsageError, YangtuoError

RESULTS = ROOT / "benchmarks" / "results" / "gpu"
_PACKAGES = ("yangtuo", "torch", "transformers", "peft", "accelerate", "bitsandbytes", "deepspeed", "trl", "numpy")
_LIMIT_S = 180.0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; --help lists the options")


def parse(words: Sequence[str], names: Sequence[str]) -> argparse.Namespace:
    """The options.

    Raises:
        UsageError: an unknown option, or a part that there is not.
    """
    parser = _Parser("benchmarks/gpu_day.sh", description=__doc__, allow_abbrev=False)
    parser.add_argument("parts", nargs="*", metavar="PART", help="These only. Default: all.")
    parser.add_argument("--list", action="store_true", help="Print the parts, and which have a result.")
    parser.add_argument("--again", action="append", default=[], metavar="PART", help="Repeat this one; more than once.")
    parser.add_argument("--results", type=Path, help="Default: benchmarks/results/gpu/<date>-<device>.")
    parser.add_argument(
        "--scratch", type=Path, help="For bases and runs, 22 GB with the 8B shape. Default: a temporary folder."
    )
    parser.add_argument("--limit", type=float, default=_LIMIT_S, help="Seconds of a part. Default: %(default).0f.")
    parser.add_argument("--rehearse", action="store_true", help="Every part on the CPU at a tiny shape.")
    parser.add_argument("--keep", action="store_true", help="Leave the bases in the scratch folder at the end.")
    options = parser.parse_args(words)
    unknown = [name for name in [*options.parts, *options.again] if name not in names]
    if unknown:
        raise UsageError(f"no part is called {unknown[0]}; there are {', '.join(names)}")
    return options


def job_for(scratch: Path, cards: Sequence[dict[str, Any]], *, rehearses: bool) -> Job:
    """What the parts are told, by the memory that is free.

    Raises:
        UsageError: no GPU, or too little memory for any shape.
    """
    if rehearses:
        return Job(scratch, True, "tiny", "tiny", "tiny", row_tokens=256, full_rows=2, num_gpus=0)
    if not cards:
        raise UsageError("nvidia-smi names no GPU here; --rehearse tries every part on the CPU")
    work = gpu.work_for(min(card["free_gib"] for card in cards))
    if work is None:
        raise UsageError(f"{cards[0]['free_gib']:.1f} GiB are free on {cards[0]['name']}, 10 are needed; free some")
    return Job(scratch, False, work.base, work.few_layers, "check", work.row_tokens, work.full_rows, len(cards))


def measure(words: Sequence[str], parts: Sequence[Part], console: Console) -> int:
    """Run the parts that the options name; the exit code, 1 where one failed.

    Raises:
        UsageError: what was given cannot be used.
    """
    options = parse(words, [part.name for part in parts])
    cards = [] if options.rehearse else gpu.gpus()
    device = cards[0]["name"] if cards else "rehearsal"
    kind = "rehearsal" if options.rehearse else "scratch"
    own = Path(tempfile.gettempdir()) / f"gpu_day_{kind}_{os.getuid()}_{ROOT.name}"
    scratch = (options.scratch or own).resolve()
    default = scratch / "results" if options.rehearse else RESULTS / gpu.folder_name(time.strftime("%Y-%m-%d"), device)
    results = (options.results or default).resolve()
    if options.rehearse and not options.list and not options.scratch:
        shutil.rmtree(own, ignore_errors=True)  # with the results of an old rehearsal, which would count as done
    job = job_for(scratch, cards, rehearses=options.rehearse or options.list)
    job = replace(job, rehearses=options.rehearse)
    circumstances = {
        "command": ["bash", "benchmarks/gpu_day.sh", *map(without_folders, words)],
        "commit": commit(),
        "versions": versions(_PACKAGES),
        "machine": computer(),
        "gpus": cards,
        "work": {key: value for key, value in job.to_values().items() if key != "scratch"},
    }
    day = Day(
        results, job, circumstances, options.limit, lambda line: console.print(line, markup=False, highlight=False)
    )
    names = [*options.parts, *options.again] or [part.name for part in parts]
    chosen = [part for part in parts if part.name in names]
    if options.list:
        show_parts(chosen, {part.name: "there" for part in chosen if day.known(part)}, console)
        return 0
    console.print(f"{device}; results in {results}", markup=False, highlight=False)
    is_well = day.run(chosen, options.again)
    show_results(day.records, console)
    _clear(day, parts, options, console)
    return 0 if is_well else 1


def _clear(day: Day, parts: Sequence[Part], options: argparse.Namespace, console: Console) -> None:
    """Delete what is large once every part has a result or was skipped; a folder of the user's is left as it is."""
    is_over = all(day.known(part) or day.records.get(part.name, {}).get("status") == SKIPPED for part in parts)
    if not options.keep and not options.scratch and (options.rehearse or is_over):
        for folder in ("bases", "runs", "encoded"):
            shutil.rmtree(day.job.scratch / folder, ignore_errors=True)
    else:
        console.print(f"bases and logs stay in {day.job.scratch}", markup=False, highlight=False)


def main(words: Sequence[str]) -> int:
    """Measure, or be the process of a part; returns the exit code."""
    if words and words[0] == "_part":
        return answer(plan.function_of(words[1]))
    try:
        return measure(words, plan.all_parts(), Console())
    except YangtuoError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("error: stopped by Ctrl-C; the same command goes on with the part that was stopped\n")
        return 130


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no child is left behind
    sys.exit(main(sys.argv[1:]))
