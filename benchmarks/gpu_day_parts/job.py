"""What a part is told, and how it says that it failed or has nothing to do here. Imports no torch."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
JOB, ANSWER = "GPU_DAY_JOB", "GPU_DAY_ANSWER"  # environment variables: the job's file, and where its answer goes


@dataclass(frozen=True)
class Job:
    """What a part is told.

    Attributes:
        scratch: folder for bases, rows and runs, which later parts use again.
        rehearses: on the CPU, at a tiny shape, only to see that the part runs.
        base: name of the base that speed and memory are measured on, see `bases.SHAPES`.
        few_layers: name of the same with fewer layers, for what takes long to start.
        check_base: name of the base of runs that check something.
        row_tokens: length of a full row.
        full_rows: full rows of a step.
        num_gpus: that are visible.
    """

    scratch: Path
    rehearses: bool
    base: str
    few_layers: str
    check_base: str
    row_tokens: int
    full_rows: int
    num_gpus: int

    @property
    def device(self) -> str:
        """Where torch computes."""
        return "cpu" if self.rehearses else "cuda"

    def to_values(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"scratch": str(self.scratch)}

    @classmethod
    def of_values(cls, values: Mapping[str, Any]) -> "Job":
        """Back from JSON values."""
        return cls(**{**values, "scratch": Path(values["scratch"])})


class NothingToDo(Exception):
    """The part cannot be measured here; the reason is one line."""


class PartFailure(Exception):
    """The part did not do its work, or found something wrong; `measured` is what is known all the same."""

    def __init__(self, reason: str, measured: Mapping[str, Any] | None = None):
        super().__init__(reason)
        self.measured = dict(measured or {})


@dataclass(frozen=True)
class Ended:
    """A child process that has ended, and what it said."""

    code: int
    said: str

    @property
    def reason(self) -> str:
        """Why it failed, in one line."""
        return last_word(self.said) or f"exit code {self.code}"


def last_word(said: str) -> str:
    """The line that tells what went wrong: the last error, else the last line that is not empty."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1][:300]


def start(command: Sequence[object], environment: Mapping[str, str] | None = None) -> Ended:
    """Run a command in the repository to its end; what it says is passed on, for the log."""
    words = [str(word) for word in command]
    print("$", *words, flush=True)
    done = subprocess.run(
        words,
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    print(done.stdout, flush=True)
    return Ended(done.returncode, done.stdout)


def answer(function: Any) -> int:
    """Be the process of a part: run its function on the job, write what it returns; the exit code."""
    place = Path(os.environ[ANSWER])
    job = Job.of_values(json.loads(Path(os.environ[JOB]).read_text(encoding="utf-8")))
    try:
        found = {"measured": function(job)}
    except NothingToDo as nothing:
        found = {"skipped": str(nothing)}
    except PartFailure as failure:
        found = {"failed": str(failure), "measured": failure.measured}
    place.write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
    if "failed" in found:
        sys.stderr.write(f"error: {found['failed']}\n")
    return 1 if "failed" in found else 0
