"""Runs of `yangtuo train` that show something: memory that runs out, float16 that overflows, several processes."""

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_day_parts.bases import base_of, full_rows, short_rows
from gpu_day_parts.job import ROOT, Ended, Job, NothingToDo, PartFailure, start

_ROWS = 8  # of a step
_SAME = 2e-3  # largest difference of a loss, nats, of the same steps cut otherwise, in float32
_HIGH_SCALE = 2.0**40


@dataclass(frozen=True)
class TrainRun:
    """A run that has ended well: its steps, what it said, and what was seen of its memory."""

    steps: list[dict[str, Any]]
    said: str
    seen: dict[str, Any]

    @property
    def losses(self) -> list[float]:
        """Of all steps."""
        return [step["loss"] for step in self.steps]


def train(
    job: Job, name: str, data: Path, *, options: dict[str, Any], wish: dict[str, Any] | None = None, processes: int = 0
) -> TrainRun:
    """Train on the base of checks; under torchrun where a number of processes is given.

    Raises:
        PartFailure: the run failed.
    """
    out = job.scratch / "runs" / name
    shutil.rmtree(out, ignore_errors=True)
    base = base_of(job.scratch, job.check_base, job.device, "float32")
    values = {
        **{"model_name_or_path": base, "dataset_dir": data, "output_dir": out, "per_device_train_batch_size": _ROWS},
        **{"max_steps": 3 if job.rehearses else 6, "learning_rate": 1e-3, "lora_dropout": 0, "save_strategy": "no"},
        **{"seed": 1, "data_cache_dir": job.scratch / "encoded", "lr_scheduler_type": "constant", **options},
    }
    words = ["train", *(str(word) for key, value in values.items() for word in (f"--{key}", value))]
    told = job.scratch / f"{name}.told"
    wishes = {"most_bytes": None, "most_tokens": None, "loss_scale": None, "told": str(told), **(wish or {})}
    (job.scratch / f"{name}.wish").write_text(json.dumps(wishes), encoding="utf-8")
    program = ["-m", "gpu_day_parts.watched", str(job.scratch / f"{name}.wish"), *words]
    launcher: list[str] = []
    if processes:
        launcher = ["-m", "yangtuo.cli.torchrun", "--standalone", "--nnodes", "1", "--nproc_per_node", str(processes)]
        program = [str(ROOT / "scripts" / "run_clm_sft_with_peft.py"), *words[1:]]
    visible = (
        {}
        if processes or job.rehearses
        else {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]}
    )
    done = start([sys.executable, *launcher, *program], visible)
    return _ended(done, out, told)


def _ended(done: Ended, out: Path, told: Path) -> TrainRun:
    if done.code:
        raise PartFailure(f"yangtuo train ended with code {done.code}: {done.reason}")
    lines = map(json.loads, (out / "log.jsonl").read_text(encoding="utf-8").splitlines())
    seen = json.loads(told.read_text(encoding="utf-8")) if told.is_file() else {}
    return TrainRun([line for line in lines if "loss" in line], done.said, seen)


def furthest(first: TrainRun, second: TrainRun) -> float:
    """The largest difference of a step's losses."""
    return max(abs(a - b) for a, b in zip(first.losses, second.losses, strict=True))


def _check_same(first: TrainRun, second: TrainRun, measured: dict[str, Any]) -> None:
    if measured["furthest_loss"] > _SAME:
        raise PartFailure(
            f"the losses differ by {measured['furthest_loss']:.2g}, {_SAME:g} is allowed: "
            f"{first.losses} and {second.losses}",
            measured,
        )


def out_of_memory(job: Job) -> dict[str, Any]:
    """All rows of a step at once in a little more than half of the memory that they take; then again in all of it."""
    base = base_of(job.scratch, job.check_base, job.device, "float32")
    tokens = 256 if job.rehearses else 1024
    data = full_rows(job.scratch, base, 2 * _ROWS, tokens)
    options = {"max_seq_length": tokens, "micro_batch_tokens": _ROWS * tokens, "gradient_checkpointing": False}
    plain = train(job, "in_memory", data, options=options)
    wish: dict[str, Any] = {"most_tokens": _ROWS * tokens // 2}
    if not job.rehearses:
        weights = sum(file.stat().st_size for file in base.glob("*.safetensors"))
        wish = {"most_bytes": weights + 0.6 * (plain.seen["peak_bytes"] - weights)}
    short = train(job, "out_of_memory", data, options=options, wish=wish)
    told = [line for line in short.said.splitlines() if "out of memory: step" in line]
    measured = {
        "limit": wish,
        "peak_bytes": {"whole": plain.seen.get("peak_bytes"), "short": short.seen.get("peak_bytes")},
        "micro_batches": [step["micro_batches"] for step in short.steps],
        "told": told,
        "furthest_loss": furthest(plain, short),
    }
    measured["headline"] = f"halved {len(told)} time(s), losses within {measured['furthest_loss']:.1g}"
    if not told:
        raise PartFailure("memory did not run out, or nothing was said of it", measured)
    _check_same(plain, short, measured)
    return measured


def float16(job: Job) -> dict[str, Any]:
    """Float16 at torch's own loss scale, and at one that overflows: steps are skipped and told, training goes on."""
    if job.rehearses:
        raise NothingToDo("float16 is trained on a GPU only")
    options = {"fp16": True, "torch_dtype": "float16", "max_steps": 40}
    data = short_rows(job.scratch)
    plain = train(job, "float16", data, options=options)
    high = train(job, "float16_overflows", data, options=options, wish={"loss_scale": _HIGH_SCALE})
    skipped = {
        name: sum(bool(step.get("skipped")) for step in run.steps) for name, run in (("usual", plain), ("high", high))
    }
    done = [bool(step.get("skipped")) for step in high.steps]
    measured = {
        "skipped": skipped,
        "losses": {"usual": plain.losses, "high": high.losses},
        "grad_norms": {"usual": _norms(plain), "high": _norms(high)},
        "headline": f"skipped {skipped['usual']} of {len(plain.steps)} steps, at a high scale {skipped['high']}",
    }
    if not skipped["high"]:
        raise PartFailure("no step is known as skipped at a loss scale of 2^40", measured)
    if done[-1] or not high.losses[-1] < high.losses[0]:
        raise PartFailure("training does not go on after the skipped steps", measured)
    return measured


def _norms(run: TrainRun) -> list[float | None]:
    return [step.get("grad_norm") for step in run.steps]


def one_process(job: Job) -> dict[str, Any]:
    """A process of torchrun beside one without it: NCCL and DDP, the same losses."""
    return _processes(job, 1)


def all_gpus(job: Job) -> dict[str, Any]:
    """A process of torchrun for each GPU."""
    if job.num_gpus < 2:
        raise NothingToDo("one GPU is visible, several are needed")
    return _processes(job, job.num_gpus)


def _processes(job: Job, number: int) -> dict[str, Any]:
    data, rows = short_rows(job.scratch), max(1, _ROWS // number)
    together = train(job, f"of_{number}", data, options={"per_device_train_batch_size": rows}, processes=number)
    alone = train(job, "alone", data, options={"per_device_train_batch_size": rows * number})
    rates = {"alone": alone.steps[-1]["tokens_per_s"], "together": together.steps[-1]["tokens_per_s"]}
    measured: dict[str, Any] = {"processes": number, "furthest_loss": furthest(alone, together), "tokens_per_s": rates}
    measured["headline"] = f"losses within {measured['furthest_loss']:.1g} of those without torchrun"
    _check_same(alone, together, measured)
    return measured
