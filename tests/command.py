"""Running the program as a user does: in a process of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return self.out + self.err


def run(command: list, *, env: dict | None = None, cwd: Path | None = None, timeout: float = 300) -> Finished:
    """Run a command; the interpreter of the tests comes first on PATH, so that `yangtuo` and `torchrun` are its own."""
    environment = {
        **{key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        **(env or {}),
    }
    words = [str(word) for word in command]
    done = subprocess.run(
        words, env=environment, cwd=cwd or REPOSITORY, capture_output=True, text=True, timeout=timeout, check=False
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def yangtuo(*words, **options) -> Finished:
    return run([sys.executable, "-m", "yangtuo", *words], **options)


def log_of(output_dir: Path) -> list[dict]:
    """The steps of log.jsonl."""
    lines = (Path(output_dir) / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if "loss" in entry]


def evaluations_of(output_dir: Path) -> list[dict]:
    lines = (Path(output_dir) / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if "eval_loss" in entry]
