"""Running the program as a user does: in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
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


class Forker:
    """The process of `forker.py`."""

    def __init__(self):
        environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forker"],
            env={**environment, "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu"},
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        while "ready" not in self._process.stdout.readline():
            assert self._process.poll() is None, "the forking process did not start"

    def run(self, words, *, env=None, cwd=None, timeout=300, first="", num_processes=0) -> Finished:
        """`yangtuo WORDS` after the Python code `first`; with `num_processes`, in so many ranks."""
        with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
            request = {
                "argv": [str(word) for word in words],
                "env": env or {},
                "cwd": str(cwd or REPOSITORY),
                "timeout": timeout,
                "first": first,
                "num_processes": num_processes,
                "out": out.name,
                "err": err.name,
            }
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            code = int(self._process.stdout.readline())
            return Finished(code, out.read(), err.read())

    def end(self):
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()


_forkers: list[Forker] = []


def forked(*words, **options) -> Finished:
    """See `Forker.run`; the process is started at the first call."""
    if not _forkers:
        _forkers.append(Forker())
    return _forkers[0].run(words, **options)


def end_forker():
    while _forkers:
        _forkers.pop().end()


def yangtuo(*words, **options) -> Finished:
    return forked(*words, **options)


def log_of(output_dir: Path) -> list[dict]:
    """The steps of log.jsonl."""
    lines = (Path(output_dir) / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if "loss" in entry]


def evaluations_of(output_dir: Path) -> list[dict]:
    lines = (Path(output_dir) / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if "eval_loss" in entry]
