"""benchmarks/throughput.py on the base that was made: full rows and short ones, beside plain transformers and TRL."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from gpu_day_parts.bases import base_of, full_rows, short_rows
from gpu_day_parts.job import ROOT, Job, NothingToDo, PartFailure, start
from yangtuo.config.options import OPTIONS
from yangtuo.config.trainer_options import ArgHandling

_SHORT_ROWS, _SHORT_BATCH, _STEPS = 64, 8, 9


def make_base(job: Job) -> dict[str, Any]:
    """Write the bases that the other parts read."""
    folders = [
        base_of(job.scratch, name, job.device, _dtype(job)) for name in dict.fromkeys((job.base, job.few_layers))
    ]
    folders.append(base_of(job.scratch, job.check_base, job.device, "float32"))
    sizes = {folder.name: sum(file.stat().st_size for file in folder.iterdir()) / 1e9 for folder in folders}
    return {"gigabytes": sizes, "headline": ", ".join(f"{name} {size:.2f} GB" for name, size in sizes.items())}


def full(job: Job) -> dict[str, Any]:
    """Rows as long as they may be: nothing is padded or shared, so the layers themselves are compared."""
    return _compare_full(job, job.base, "ours,seed")


def short(job: Job) -> dict[str, Any]:
    """The demo's rows, 8 a step."""
    if job.rehearses:  # what the two parts after it run, where it can be run
        return _compare_short(job, job.base, "ours" if _compile_is_refused() else "ours_compiled")
    return _compare_short(job, job.base, "ours,seed")


def compiled_full(job: Job) -> dict[str, Any]:
    """With and without --torch_compile, full rows."""
    _check_compile(job)
    return _compare_full(job, job.few_layers, "ours,ours_compiled")


def compiled_short(job: Job) -> dict[str, Any]:
    """With and without --torch_compile, short rows."""
    _check_compile(job)
    return _compare_short(job, job.few_layers, "ours,ours_compiled")


def trl(job: Job) -> dict[str, Any]:
    """TRL beside ours, short rows, packed and not."""
    if importlib.util.find_spec("trl") is None:
        raise NothingToDo("TRL is not installed; pip install trl")
    return _compare_short(job, job.few_layers, "ours,trl_fast,trl_packed_fast")


def _compile_is_refused() -> bool:
    return OPTIONS["torch_compile"].handling is ArgHandling.REFUSED


def _check_compile(job: Job) -> None:
    if _compile_is_refused():
        raise NothingToDo("this version of yangtuo refuses --torch_compile")
    if job.rehearses:
        raise NothingToDo("speed_short rehearses the same command")


def _dtype(job: Job) -> str:
    """As throughput.py chooses it: bfloat16 where the card multiplies it by itself."""
    import torch

    is_native = job.device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if is_native else "float32"


def _compare_full(job: Job, name: str, contenders: str) -> dict[str, Any]:
    base = base_of(job.scratch, name, job.device, _dtype(job))
    rows = full_rows(job.scratch, base, job.full_rows, job.row_tokens)
    work = {"rows": job.full_rows, "batch": job.full_rows, "max_seq_length": job.row_tokens}
    return _compare(job, base, rows, contenders, work)


def _compare_short(job: Job, name: str, contenders: str) -> dict[str, Any]:
    base = base_of(job.scratch, name, job.device, _dtype(job))
    work = {"rows": _SHORT_ROWS, "batch": _SHORT_BATCH, "max_seq_length": 512}
    return _compare(job, base, short_rows(job.scratch), contenders, work)


def _compare(job: Job, base: Path, rows: Path, contenders: str, work: dict[str, int]) -> dict[str, Any]:
    place = job.scratch / "throughput.json"
    place.unlink(missing_ok=True)
    options = {**work, "steps": 2 if job.rehearses else _STEPS, "rounds": 1, "dtype": _dtype(job)}
    command = [sys.executable, ROOT / "benchmarks" / "throughput.py", "--model", base, "--dataset_dir", rows]
    command += ["--contenders", contenders, "--json", place]
    command += [word for option, value in options.items() for word in (f"--{option}", str(value))]
    # Compiling takes a minute and a compiler on a CPU; the rehearsal is of the command.
    done = start(command, {"TORCHDYNAMO_DISABLE": "1"} if job.rehearses else {})
    if not place.is_file():
        raise PartFailure(done.reason)
    record = json.loads(place.read_text(encoding="utf-8"))
    kept = ("settings", "summary", "matmul_flop_per_s", "rounds", "notes")
    measured = {key: record[key] for key in kept} | {"headline": headline(record["summary"])}
    if done.code:
        failures = [f"{name}: {why}" for name, entry in record["summary"].items() for why in entry["failures"]]
        raise PartFailure("; ".join(failures) or done.reason, measured)
    return measured


def headline(summary: dict[str, Any]) -> str:
    """Tokens a second of each contender, and how many times as fast ours is."""
    told = []
    for name, entry in summary.items():
        if "tokens_per_s" not in entry:
            told.append(f"{name} failed")
            continue
        times = entry.get("ours_over_it")
        ratio = f" (ours is {times['median']:.2f} x)" if times and name != "ours" else ""
        told.append(f"{name} {entry['tokens_per_s']['median']:,.0f}{ratio}")
    return "tokens/s: " + ", ".join(told)
