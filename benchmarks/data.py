"""How fast rows become token ids, and in how much memory: `yangtuo check`, and `datasets.map` as in 2023.

Both read the same JSON file, encode with the same tokenizer and template and leave the ids on disk; each runs in
processes of its own, in turns. The 2023 script's work is redone here on today's `datasets` and transformers: load the
file, map a function over batches that tokenises prompts and answers apart, save.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from circumstances import commit, computer, versions, without_folders

from yangtuo.cli.demo import DATA, cache_folder, fetch_model
from yangtuo.data.templates import ALPACA_ZH

_PACKAGES = ("yangtuo", "numpy", "sentencepiece", "tokenizers", "transformers", "datasets", "pyarrow")


@dataclass(frozen=True)
class Run:
    """One contender in one round; memory is that of all its processes together, shared pages counted once."""

    contender: str
    seconds: float
    peak_gib: float
    rows_per_s: float


def write_rows(path: Path, source: Path, num_rows: int) -> None:
    """So many rows, all different: those of the source in turn, with a number in each."""
    rows = json.loads(source.read_text(encoding="utf-8"))
    with path.open("w", encoding="utf-8") as file:
        for i in range(num_rows):
            row = rows[i % len(rows)]
            numbered = {**row, "instruction": f"{row['instruction']}（{i}）"}
            file.write(("[" if i == 0 else ",") + json.dumps(numbered, ensure_ascii=False) + "\n")
        file.write("]")


def measure(contender: str, command: Sequence[str], num_rows: int, folder: Path) -> Run:
    """Run a command to its end, looking at its memory ten times a second."""
    began = time.monotonic()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        peak = _watch(process)
    seconds = time.monotonic() - began
    if process.returncode not in (0, 2):  # 2: a verdict on the data
        sys.exit(f"{contender} failed:\n{(folder / 'log').read_text()[-2000:]}")
    return Run(contender, seconds, peak / 2**30, num_rows / seconds)


def _watch(process: "subprocess.Popen[bytes]") -> int:
    """The largest memory of a process and its children, in bytes, until it ends."""
    peak, done = 0, threading.Event()
    waiter = threading.Thread(target=lambda: (process.wait(), done.set()))
    waiter.start()
    while not done.wait(0.1):
        total = 0
        for one in _family(process.pid):
            try:
                total += one.memory_full_info().pss
            except psutil.Error:
                continue
        peak = max(peak, total)
    waiter.join()
    return peak


def _family(pid: int) -> list[psutil.Process]:
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.Error:
        return []


def map_as_in_2023(rows: Path, tokenizer_folder: Path, cache: Path, num_proc: int, max_seq_length: int) -> None:
    """The work of the 2023 script's data set, on today's libraries."""
    import torch
    from datasets import load_dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)

    def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        users = [
            f"{instruction}\n{addition}" if addition else instruction
            for instruction, addition in zip(batch["instruction"], batch["input"], strict=True)
        ]
        prompts = tokenizer([ALPACA_ZH.prompt(user) for user in users], return_attention_mask=False)["input_ids"]
        answers = tokenizer(
            [f"{output}{tokenizer.eos_token}" for output in batch["output"]],
            return_attention_mask=False,
            add_special_tokens=False,
        )["input_ids"]
        pairs = list(zip(prompts, answers, strict=True))
        return {
            "input_ids": [torch.LongTensor(prompt + answer)[:max_seq_length] for prompt, answer in pairs],
            "labels": [torch.LongTensor([-100] * len(prompt) + answer)[:max_seq_length] for prompt, answer in pairs],
        }

    raw = load_dataset("json", data_files=str(rows), cache_dir=str(cache))
    columns = ["instruction", "input", "output"]
    encoded = raw.map(encode, batched=True, num_proc=num_proc, remove_columns=columns, keep_in_memory=False)
    encoded.save_to_disk(cache / "encoded")


def compare(options: argparse.Namespace) -> list[Run]:
    """All contenders in turns; prints each run as it ends."""
    folder_of_tokenizer = (options.tokenizer or fetch_model(cache_folder())).resolve()
    runs = []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        rows = scratch / "rows.json"
        write_rows(rows, options.source, options.rows)
        print(f"{options.rows:,} rows, {rows.stat().st_size / 1e6:,.0f} MB; {options.rounds} round(s)", flush=True)
        for _ in range(options.rounds):
            for contender in options.contenders.split(","):
                folder = scratch / "work"
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                command = _command(contender, rows, folder_of_tokenizer, options)
                run = measure(contender, command, options.rows, folder)
                runs.append(run)
                print(
                    f"{contender:8}{run.seconds:8.1f} s{run.rows_per_s:10,.0f} rows/s{run.peak_gib:7.2f} GiB",
                    flush=True,
                )
    return runs


def _command(contender: str, rows: Path, tokenizer: Path, options: argparse.Namespace) -> list[str]:
    if contender == "ours":
        words = ["-m", "yangtuo", "check", "--template", "alpaca_zh", "--tokenizer_name_or_path", tokenizer]
        words += ["--train_file", rows, "--max_seq_length", options.max_seq_length, "--data_cache_dir", "store"]
        return [sys.executable, *map(str, words)]
    num_proc = int(contender.removeprefix("map"))
    job = {"rows": str(rows), "tokenizer": str(tokenizer), "num_proc": num_proc, "length": options.max_seq_length}
    return [sys.executable, __file__, "--job", json.dumps(job)]


def main(words: Sequence[str]) -> None:
    """Measure, print, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", type=int, default=100_000, help="Rows of the file that is made. Default: %(default)s."
    )
    parser.add_argument("--source", type=Path, default=DATA / "demo_zh.json", help="Alpaca file that they are made of.")
    parser.add_argument("--tokenizer", type=Path, help="Tokenizer folder. Default: the demo's.")
    parser.add_argument("--max_seq_length", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--contenders",
        default=f"ours,map{os.cpu_count()},map8",
        help="ours, and mapN for datasets.map with N processes (8 in 2023). Default: %(default)s.",
    )
    parser.add_argument("--json", type=Path, help="File for the record.")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.job:
        job = json.loads(options.job)
        map_as_in_2023(Path(job["rows"]), Path(job["tokenizer"]), Path("cache"), job["num_proc"], job["length"])
        return
    runs = compare(options)
    best = {
        name: median(run.seconds for run in runs if run.contender == name) for name in options.contenders.split(",")
    }
    for name, seconds in best.items():
        if name != "ours" and "ours" in best:
            print(f"ours is {seconds / best['ours']:.2f} times as fast as {name}")
    if options.json:
        record = {
            "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": ["python", "benchmarks/data.py", *map(without_folders, words)],
            "commit": commit(),
            "versions": versions(_PACKAGES),
            "machine": computer(),
            "runs": [asdict(run) for run in runs],
        }
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
