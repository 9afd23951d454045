"""How evenly a step's work is spread over the ranks: by yangtuo's planner, and in turn as by DistributedSampler.

Ranks wait for the one with the most to do, so a step takes (1 + imbalance) times what it would with even loads;
imbalance is the largest load of a rank by the mean, less one. A load is cells: tokens that a rank computes, a prefix
that rows of a micro-batch share counted once. Steps are planned by `yangtuo.engine.steps.Planner`, as in training;
nothing is trained, and no weights are read. docs/scaling.md shows a result.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from circumstances import commit, computer, versions, without_folders

from yangtuo.cli.demo import DATA, cache_folder
from yangtuo.config.choices import DataOrder, LossReduction
from yangtuo.data.backends import Blank
from yangtuo.data.encoding import EncodingOptions, encode
from yangtuo.data.examples import Examples
from yangtuo.data.readers import reader, search
from yangtuo.data.templates import ALPACA_ZH
from yangtuo.data.tokenizer import Tokenizer, is_tokenizer_folder, open_tokenizer
from yangtuo.engine.layout import common_prefixes
from yangtuo.engine.planning import Rows, StepPlan, StepShape, epoch_order, step_rows
from yangtuo.engine.steps import Execution, Planner, Recipe
from yangtuo.errors import UsageError, YangtuoError

RANKS = (1, 2, 4, 8, 16, 64, 256, 1024)
ROWS_PER_STEP = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 8192)
FEWEST_STEPS = 8
TARGET_RANKS, TARGET_ROWS, TARGET = 8, 64, 0.03  # at 8 ranks at most 3 % for steps of 64 rows or more


@dataclass(frozen=True)
class Point:
    """One number of ranks and rows of a step; imbalances as mean and worst over the steps of an epoch.

    Attributes:
        ranks: how many share a step.
        rows_per_step: over all ranks.
        num_steps: whole steps of the epoch; its short last one is left out.
        copies: how often the data was taken to have enough of them.
        planned: under DDP, whose ranks meet in the last micro-batch of a step.
        lockstep: under ZeRO-2, ZeRO-3 and FSDP, whose ranks meet in every micro-batch.
        longest_row: what the longest row alone forces; no way to spread whole rows is better.
        in_turn: row i of the step to rank i modulo ranks, a rank's rows in one micro-batch.
        plan_ms: median milliseconds in which each process plans a step.
    """

    ranks: int
    rows_per_step: int
    num_steps: int
    copies: int
    planned: tuple[float, float]
    lockstep: tuple[float, float]
    longest_row: tuple[float, float]
    in_turn: tuple[float, float]
    plan_ms: float


# ---- what is counted: values in, values out


def repeated(examples: Examples, copies: int) -> Examples:
    """The rows several times over; copies of a row share what all rows share, else they would cost nothing."""
    common = Planner(examples).common
    known, ids = np.unique(examples.input_ids, return_inverse=True)
    places = np.arange(len(ids)) - np.repeat(examples.begins, examples.lengths())
    copied = [np.where(places < common, ids, ids + copy * len(known)) for copy in range(copies)]
    begins = np.cumsum(np.tile(examples.lengths(), copies))[:-1]
    supervised = np.tile(examples.supervised, copies)
    return Examples.of_rows(np.split(np.concatenate(copied), begins), np.split(supervised, begins))


def num_cells(examples: Examples, rows: Rows) -> int:
    """Cells of a micro-batch of these rows: its distinct prefixes."""
    ids = [examples.row(int(row))[0] for row in rows]
    return sum(map(len, ids)) - sum(shared for _, shared in common_prefixes(ids))


def loads(examples: Examples, plan: StepPlan) -> tuple[npt.NDArray[np.int64], float]:
    """Cells of each rank's micro-batches, int64 [ranks, micro-batches], and their mean a rank.

    A weightless micro-batch takes time and gives nothing: it is a load, and not in the mean.
    """
    cells = np.array([[num_cells(examples, batch.rows) for batch in of_rank] for of_rank in plan.micro_batches])
    counts = np.array([[bool(batch.weights.any()) for batch in of_rank] for of_rank in plan.micro_batches])
    return cells, float((cells * counts).sum() / len(cells))


def measure(planner: Planner, copies: int, shape: StepShape, execution: Execution, seed: int) -> Point:
    """Plan every whole step of the first epoch and take the spread of its loads."""
    token, shuffled = LossReduction.TOKEN, DataOrder.SHUFFLED
    recipe = Recipe(shape, token, shuffled, seed, True, label_smoothing=0.0, neftune_noise_alpha=None, eval_rows=1)
    examples, ranks = planner.examples, shape.world_size
    order = epoch_order(np.arange(len(examples)), 0, seed, recipe.order)
    found: dict[str, list[float]] = {"planned": [], "lockstep": [], "longest_row": [], "in_turn": []}
    seconds: list[float] = []
    for step in range(shape.num_steps(len(examples), drop_last=True)):
        rows = step_rows(order, step, shape)
        begin = time.perf_counter()
        plan = planner.step(rows, recipe, execution)
        seconds.append(time.perf_counter() - begin)
        cells, mean = loads(examples, plan)
        dealt = [num_cells(examples, rows[rank::ranks]) for rank in range(ranks)]
        found["planned"].append(cells.sum(1).max() / mean - 1)
        found["lockstep"].append(cells.max(0).sum() / mean - 1)
        found["longest_row"].append(max(0.0, planner.num_tokens[rows].max() / mean - 1))
        found["in_turn"].append(max(dealt) * ranks / sum(dealt) - 1)
    spreads = {name: (float(np.mean(values)), float(max(values))) for name, values in found.items()}
    plan_ms = 1000 * float(np.median(seconds))
    return Point(ranks, shape.rows_per_step, len(seconds), copies, **spreads, plan_ms=plan_ms)


# ---- the command


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1 up")
    return int(text)


def _numbers(text: str) -> list[int]:
    return [_positive(part) for part in text.split(",")]


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The options; UsageError for one that cannot be."""
    parser = _Parser("benchmarks/balance.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--dataset_dir", type=Path, default=DATA, help="Alpaca rows. Default: the demo's.")
    parser.add_argument("--model", type=Path, help="Folder with a tokenizer. Default: the demo's, if it is there.")
    parser.add_argument("--json", type=Path, help="File to write everything to.")
    parser.add_argument("--ranks", type=_numbers, default=list(RANKS), help="Default: %(default)s.")
    parser.add_argument("--rows_per_step", type=_numbers, default=list(ROWS_PER_STEP), help="Default: %(default)s.")
    parser.add_argument("--max_seq_length", type=_positive, default=512, help="Default: %(default)s.")
    parser.add_argument("--micro_batch_tokens", type=_positive, default=16384, help="Default: %(default)s.")
    parser.add_argument("--seed", type=_positive, default=42, help="Of the order of rows. Default: %(default)s.")
    options = parser.parse_args(words)
    if options.json and (options.json.is_dir() or not os.access(options.json.resolve().parent, os.W_OK)):
        raise UsageError(f"--json {options.json}: cannot be written there")
    return options


def find_tokenizer(folder: Path | None) -> Tokenizer:
    """The one asked for, else the demo's, else one token a character; which one is said."""
    demo = cache_folder() / "SmolLM2-135M-Instruct"
    if folder or is_tokenizer_folder(demo):
        print(f"tokens of {(folder or demo).name}", file=sys.stderr)
        return open_tokenizer(folder or demo)
    print("no tokenizer: a character counts as a token; give --model", file=sys.stderr)
    by_character: Any = SimpleNamespace(
        blank=Blank.NEVER, encode=lambda texts, *_: [[1 + ord(character) for character in text] for text in texts]
    )
    return Tokenizer(Path("characters"), by_character, bos_id=None, eos_id=0, num_tokens=2 + sys.maxunicode)


def compare(options: argparse.Namespace) -> None:
    """Measure all settings, print them as they come, and write the record."""
    sizes = [(rows, ranks) for rows in options.rows_per_step for ranks in options.ranks if rows % ranks == 0]
    if not sizes:
        raise UsageError("--rows_per_step: none of them gives each of --ranks the same number of rows, at least one")
    tokenizer = find_tokenizer(options.model)
    rows, _ = reader.read(search.find_files(str(options.dataset_dir)))
    examples, _ = encode(rows, tokenizer, EncodingOptions(ALPACA_ZH, options.max_seq_length))
    lengths = examples.lengths()
    print(f"{len(examples)} rows, {lengths.mean():.1f} tokens on average, {lengths.max()} the longest", file=sys.stderr)
    planner_of = cache(lambda copies: Planner(repeated(examples, copies)))
    execution, points = Execution(shares_prefixes=True, max_cells=options.micro_batch_tokens), []
    print(f"{'':13}|{'planned %':^15}|{'in lockstep %':^15}|{'longest row %':^15}|{'rows in turn %':^15}|")
    print(f"{'rows':>6}{'ranks':>7}|" + 4 * f"{'mean':>7}{'worst':>8}|" + "  plan ms steps copies")
    for rows_per_step, ranks in sizes:
        copies = -(-FEWEST_STEPS * rows_per_step // len(examples))
        shape = StepShape(1, rows_per_step // ranks, ranks)
        point = measure(planner_of(copies), copies, shape, execution, options.seed)
        points.append(point)
        spreads = (point.planned, point.lockstep, point.longest_row, point.in_turn)
        cells = "".join(f"{100 * mean:7.1f}{100 * worst:8.1f}|" for mean, worst in spreads)
        print(f"{rows_per_step:6}{ranks:7}|{cells}{point.plan_ms:9.1f}{point.num_steps:6}{copies:7}", flush=True)
    print("\n".join(verdict(points)))
    if options.json:
        _write(options, tokenizer, examples, points)


def verdict(points: Sequence[Point]) -> list[str]:
    """Whether the target is hit, and that rows were taken more than once."""
    aimed = [point for point in points if point.ranks == TARGET_RANKS and point.rows_per_step >= TARGET_ROWS]
    missed = [f"{point.rows_per_step} rows: {point.planned[0]:.1%}" for point in aimed if point.planned[0] > TARGET]
    target = f"at most {TARGET:.0%} at {TARGET_RANKS} ranks for steps of {TARGET_ROWS} rows or more"
    lines = [f"target, {target}: {'missed at ' + ', '.join(missed) if missed else 'hit'}"] if aimed else []
    if (most := max((point.copies for point in points), default=1)) > 1:
        lines.append(
            f"the data is too small for {FEWEST_STEPS} steps of some sizes and was taken up to {most} times; copies "
            "of a row share no more than all rows do"
        )
    return lines


def _write(options: argparse.Namespace, tokenizer: Tokenizer, examples: Examples, points: Sequence[Point]) -> None:
    ids = json.dumps([examples.row(i)[0].tolist() for i in range(len(examples))]).encode()
    record = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": ["python", "benchmarks/balance.py", *map(without_folders, sys.argv[1:])],
        "commit": commit(),
        "versions": versions(("yangtuo", "numpy")),
        "machine": computer(),
        "settings": {
            **{"tokenizer": tokenizer.folder.name, "dataset_dir": options.dataset_dir.resolve().name},
            **{"rows": len(examples), "rows_sha256": hashlib.sha256(ids).hexdigest()},
            **{"mean_tokens": float(examples.lengths().mean()), "longest_row": int(examples.lengths().max())},
            **{"max_seq_length": options.max_seq_length, "micro_batch_tokens": options.micro_batch_tokens},
            "seed": options.seed,
        },
        "points": [asdict(point) for point in points],
    }
    options.json.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main(words: Sequence[str]) -> int:
    """Measure; returns the exit code."""
    try:
        compare(parse(words))
    except YangtuoError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
