"""Starts the processes of a comparison, waits for them and measures their memory."""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from throughput_parts.runs import Comparison, Run, check_work
from throughput_parts.settings import (
    LEARNING_RATE,
    LORA_ALPHA,
    LORA_DROPOUT,
    LORA_RANK,
    PROJECTIONS,
    SEED,
    is_packed,
)
from throughput_parts.work import Row
from yangtuo.data.readers import reader, search
from yangtuo.errors import UsageError

COMMAND = Path(__file__).resolve().parents[1] / "throughput.py"


class Bench:
    """Starts the children of one comparison; everything that they write lies in `scratch`."""

    def __init__(self, model: Path, scratch: Path, options: argparse.Namespace):
        self.model, self.scratch, self.options = model, scratch, options
        self._num_started = 0

    def start(self, command: Sequence[str | Path], name: str) -> tuple[Path, int]:
        """Run a command to its end; returns its log and the peak of its resident set in bytes.

        Raises:
            ChildFailure: it did not end well.
        """
        self._num_started += 1
        log = self.scratch / f"{self._num_started:03}_{name}.log"
        environment = {
            **os.environ,
            # With several GPUs in sight, transformers' Trainer alone would use them all.
            "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0],
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(self.scratch / "datasets"),
        }
        with log.open("wb") as out:
            process = subprocess.Popen([str(word) for word in command], stdout=out, stderr=out, env=environment)
        try:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            if process.poll() is None:  # Ctrl-C here
                process.kill()
                process.wait()
        if process.returncode:
            raise ChildFailure(process.returncode, log.read_text(encoding="utf-8", errors="replace"))
        return log, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    def ask(self, verb: str, job: dict[str, Any]) -> tuple[dict[str, Any], int]:
        """Run one of the command's own sub-commands; returns its answer and the peak of its resident set."""
        place = self.scratch / f"job_{self._num_started:03}.json"
        answer = place.with_suffix(".answer.json")
        place.write_text(json.dumps({**job, "model": str(self.model), "answer": str(answer)}), encoding="utf-8")
        _, peak = self.start([sys.executable, COMMAND, verb, place], verb.strip("_"))
        return json.loads(answer.read_text(encoding="utf-8")), peak

    def encode(self) -> list[Row]:
        """The rows as every contender sees them.

        Raises:
            DataError: bad rows in the data.
            UsageError: model or data cannot be used.
        """
        read, _ = reader.read(search.find_files(str(self.options.dataset_dir)))
        chosen = [
            {"instruction": record.turns[0].text, "output": record.turns[1].text}
            for record in read[: self.options.rows]
        ]
        (self.scratch / "data").mkdir()
        (self.scratch / "data" / "rows.json").write_text(json.dumps(chosen, ensure_ascii=False), encoding="utf-8")
        command = [sys.executable, "-m", "yangtuo", "encode", *self._common_flags(), "--out", self.scratch / "rows"]
        try:
            self.start(command, "encode")
        except ChildFailure as failure:
            raise UsageError(failure.reason) from failure
        lines = (self.scratch / "rows").read_text(encoding="utf-8").splitlines()
        return [Row(row["input_ids"], row["labels"]) for row in map(json.loads, lines)]

    def train(self, name: str, comparison: Comparison) -> Run:
        """One contender's training.

        Raises:
            ChildFailure: it died.
        """
        if name.startswith("ours"):
            run = self._train_ours(comparison, {"torch_compile": True} if name == "ours_compiled" else {})
        else:
            job = {
                "contender": name,
                "rows": str(self.scratch / "rows"),
                "dtype": comparison.machine["dtype"],
                "batch": comparison.batch,
                "num_steps": comparison.num_steps,
                "max_seq_length": self.options.max_seq_length,
                "output_dir": str(self.scratch / f"peer_{self._num_started:03}"),
            }
            answer, peak = self.ask("_train", job)
            run = Run(**answer, peak_resident_bytes=peak)
        wrong = check_work(run, comparison.plan, packed_rows=comparison.rows if is_packed(name) else None)
        if wrong:
            raise ChildFailure(0, wrong)
        return run

    def _train_ours(self, comparison: Comparison, more: dict[str, Any]) -> Run:
        output_dir = self.scratch / f"ours_{self._num_started:03}"
        options = {
            "output_dir": output_dir,
            "max_steps": comparison.num_steps,
            "learning_rate": LEARNING_RATE,
            "per_device_train_batch_size": comparison.batch,
            "gradient_accumulation_steps": 1,
            "lora_rank": LORA_RANK,
            "lora_alpha": LORA_ALPHA,
            "lora_dropout": LORA_DROPOUT,
            "trainable": ",".join(PROJECTIONS),
            "data_order": "sequential",
            "seed": SEED,
            "save_strategy": "no",
            "torch_dtype": comparison.machine["dtype"],
            "bf16": comparison.machine["dtype"] == "bfloat16",
            **more,
        }
        flags = [word for option, value in options.items() for word in (f"--{option}", value)]
        command = [sys.executable, "-m", "yangtuo", "train", *self._common_flags(), *map(str, flags)]
        _, peak = self.start(command, "ours")
        lines = map(json.loads, (output_dir / "log.jsonl").read_text(encoding="utf-8").splitlines())
        steps = [line for line in lines if "step_seconds" in line]
        results = json.loads((output_dir / "train_results.json").read_text(encoding="utf-8"))
        return Run(
            step_seconds=[step["step_seconds"] for step in steps],
            rows=[step["rows"] for step in steps],
            tokens=[step["num_tokens"] for step in steps],
            supervised_tokens=[step["num_supervised_tokens"] for step in steps],
            losses=[step["loss"] for step in steps],
            loop_seconds=results["train_runtime"],
            peak_resident_bytes=peak,
        )

    def _common_flags(self) -> list[str | Path]:
        place = ["--model_name_or_path", self.model, "--dataset_dir", self.scratch / "data"]
        return [*place, "--max_seq_length", str(self.options.max_seq_length)]


class ChildFailure(Exception):
    """A child process did not do its work; `reason` is one line."""

    def __init__(self, exit_code: int, log: str):
        super().__init__(log)
        lines = [line.strip() for line in log.splitlines() if line.strip()]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        last = (errors or lines or ["no word why"])[-1][:300]
        if exit_code < 0:
            last = f"killed by {signal.Signals(-exit_code).name}"
            last += ", out of memory?" if exit_code == -signal.SIGKILL else ""
        self.reason = last
