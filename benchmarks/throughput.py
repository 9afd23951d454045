"""Training throughput side by side: yangtuo, plain transformers, TRL; same rows, same LoRA, same machine, one run.

Every contender trains in a process of its own, one after the other, in turns over the rounds, so that a machine that
warms up or slows down does so for all. The machine's own matrix-multiply rate is measured between the rounds; useful
work divided by it says how much of the time went into what a step cannot do without. benchmarks/README.md says how
each number is counted. This process imports no torch: the resident set that Linux reports for a child begins with the
size of the process that started it. TRL is imported in the children that need it, and nowhere else.
"""

import argparse
import importlib.util
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from throughput_parts import record
from throughput_parts.bench import Bench, ChildFailure
from throughput_parts.runs import Comparison, Run, different_losses
from throughput_parts.settings import CONTENDERS, FORMATS, GIB, ON_REQUEST
from throughput_parts.summary import slow_between_steps, summarise, table

from yangtuo.cli.demo import DATA, cache_folder, fetch_model
from yangtuo.errors import MissingDependencyError, UsageError, YangtuoError

SUB_COMMANDS = ("_machine", "_train", "_model")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1 up")
    return int(text)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The options.

    Raises:
        UsageError: an unknown option, a value or a contender that cannot be.
    """
    parser = _Parser("benchmarks/throughput.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", type=Path, help="Hugging Face folder. Default: the demo's model.")
    parser.add_argument("--dataset_dir", type=Path, default=DATA, help="Alpaca rows. Default: the demo's.")
    parser.add_argument("--rows", type=_positive, default=16, help="The first N rows. Default: %(default)s.")
    parser.add_argument(
        "--contenders",
        help=f"Of {','.join(CONTENDERS)}, {','.join(ON_REQUEST)}. Default: all but the last whose packages are there.",
    )
    parser.add_argument("--json", type=Path, help="File to write everything to.")
    parser.add_argument("--rounds", type=_positive, default=2, help="Default: %(default)s.")
    parser.add_argument(
        "--steps", type=_positive, help="Of each run, the warm-up included. Default: one more than an epoch has."
    )
    parser.add_argument("--batch", type=_positive, default=8, help="Rows of a step. Default: %(default)s.")
    parser.add_argument(
        "--dtype", choices=FORMATS, help="Default: bfloat16 where the processor multiplies it natively, else float32."
    )
    parser.add_argument("--max_seq_length", type=_positive, default=512, help="Default: %(default)s.")
    options = parser.parse_args(words)
    if options.model and not (options.model / "config.json").is_file():
        raise UsageError(f"--model {options.model}: no config.json there; give a model's folder")
    if options.json and (options.json.is_dir() or not os.access(options.json.resolve().parent, os.W_OK)):
        raise UsageError(f"--json {options.json}: cannot be written there")
    options.contenders = choose_contenders(options.contenders, has_trl=importlib.util.find_spec("trl") is not None)
    return options


def choose_contenders(asked: str | None, *, has_trl: bool) -> list[str]:
    """Those asked for, or all that can run here; a contender that is left out is said.

    Raises:
        UsageError: an unknown name.
        MissingDependencyError: TRL is asked for and not installed.
    """
    names = [name.strip() for name in asked.split(",")] if asked else list(CONTENDERS)
    known = (*CONTENDERS, *ON_REQUEST)
    if not set(names) <= set(known) or len(set(names)) < len(names):
        raise UsageError(f"--contenders {asked}: expected some of {','.join(known)}, each once")
    if has_trl or not any(name.startswith("trl") for name in names):
        return names
    if asked:
        raise MissingDependencyError(f"--contenders {asked}: TRL is not installed; pip install trl")
    say("TRL is not installed and left out; pip install trl")
    return [name for name in names if not name.startswith("trl")]


def say(line: str) -> None:
    """Progress."""
    print(line, file=sys.stderr, flush=True)


def compare(words: Sequence[str]) -> int:
    """Run all rounds and print the table; returns the exit code, 1 where a contender failed.

    Raises:
        YangtuoError: what was given cannot be used.
    """
    options = parse(words)
    with tempfile.TemporaryDirectory(prefix="throughput_") as scratch:
        bench = Bench(options.model or Path(), Path(scratch), options)
        bench.model = (options.model or Path(_ask(bench, "_model")["folder"])).resolve()
        rows = bench.encode()
        say(f"{len(rows)} rows, {sum(len(row.input_ids) for row in rows):,} tokens, model {bench.model.name}")
        if len(rows) < options.rows:
            say(f"--rows {options.rows}: {options.dataset_dir} gives only {len(rows)}")
        num_steps = options.steps or -(-len(rows) // options.batch) + 1
        comparison = Comparison(options.contenders, rows, options.batch, num_steps, machine={})
        _measure(bench, comparison)
        for number in range(1, options.rounds + 1):
            _run_round(bench, comparison, number)
            if options.json:
                record.write(options, bench.model, comparison)
    summary = summarise(comparison)
    print(table(summary))
    for line in dict.fromkeys([*comparison.notes, *slow_between_steps(summary)]):
        print(f"note: {line}")
    return 1 if any(entry["failures"] for entry in summary.values()) else 0


def _ask(bench: Bench, verb: str) -> dict[str, Any]:
    """Ask for something without which nothing can be compared."""
    try:
        return bench.ask(verb, {"dtype": bench.options.dtype})[0]
    except ChildFailure as failure:
        raise UsageError(failure.reason) from failure


def _measure(bench: Bench, comparison: Comparison) -> None:
    comparison.machine = _ask(bench, "_machine")
    rate = comparison.machine["matmul_flop_per_s"]
    comparison.matmul_flop_per_s.append(rate)
    say(f"matrix products: {rate / 1e9:,.1f} GFLOP/s in {comparison.machine['dtype']}")


def _run_round(bench: Bench, comparison: Comparison, number: int) -> None:
    entries: dict[str, Run | str] = {}
    for name in comparison.contenders:
        try:
            run = bench.train(name, comparison)
        except ChildFailure as failure:
            entries[name] = failure.reason
            say(f"round {number}: {name} failed: {failure.reason}")
            continue
        entries[name] = run
        peak_gib = run.peak_resident_bytes / GIB
        say(f"round {number}: {name} {run.per_second(run.rows):.3f} examples/s, {peak_gib:.2f} GiB")
    comparison.rounds.append(entries)
    _measure(bench, comparison)
    if note := different_losses(entries, comparison.machine["dtype"]):
        comparison.notes.append(note)


def answer(sub_command: str, job: dict[str, Any]) -> dict[str, Any]:
    """What `Bench.ask` started this process for; imports are in here since they bring torch."""
    if sub_command == "_machine":
        from throughput_parts.machine import measure_machine

        return measure_machine(job)
    if sub_command == "_train":
        from throughput_parts.peers import train_peer

        return train_peer(job)
    # The demo's model. In a child, since converting it would enlarge the parent, and with it what is measured.
    return {"folder": str(fetch_model(cache_folder()))}


def main(words: Sequence[str]) -> int:
    """Compare, or be one of the children; returns the exit code."""
    try:
        if words and words[0] in SUB_COMMANDS:
            job = json.loads(Path(words[1]).read_text(encoding="utf-8"))
            Path(job["answer"]).write_text(json.dumps(answer(words[0], job)), encoding="utf-8")
        else:
            return compare(words)
    except YangtuoError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("error: stopped by Ctrl-C\n")
        return 130
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no child and no scratch folder is left behind
    sys.exit(main(sys.argv[1:]))
