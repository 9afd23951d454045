"""Running the program as a user does: in a process of its own."""

import concurrent.futures
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
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
        **own_environment(),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        **(env or {}),
    }
    words = [str(word) for word in command]
    done = subprocess.run(
        words, env=environment, cwd=cwd or REPOSITORY, capture_output=True, text=True, timeout=timeout, check=False
    )
    return Finished(done.returncode, done.stdout, done.stderr)


class Forker:
    """The process of `forker.py`, which has imported everything in this environment."""

    def __init__(self, env: dict | None = None):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forker"],
            env={**own_environment(), "DS_ACCELERATOR": "cpu", **(env or {})},
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        while "ready" not in self._process.stdout.readline():
            assert self._process.poll() is None, "the forking process did not start"

    def ask(self, **request):
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def end(self):
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()


_forkers: list[Forker] = []


def _shared_forker() -> Forker:
    if not _forkers:
        _forkers.append(Forker())
    return _forkers[0]


def end_forker():
    while _forkers:
        _forkers.pop().end()


class Started:
    """`python WORDS` in a process of its own, by a fork; used as a `subprocess.Popen` is.

    `stdin`, `stdout` and `stderr` are paths, or `subprocess.PIPE`; a terminal becomes that of the process.
    `forker`: another than the shared one.
    """

    def __init__(
        self, words, *, env=None, cwd=None, stdin="/dev/null", stdout, stderr, first="", ignores=(), forker=None
    ):
        self._forker = forker or _shared_forker()
        self.args, self.returncode = [str(word) for word in words], None
        self._inner = []  # the program's ends of pipes
        paths = [self._open(name, given) for name, given in (("stdin", stdin), ("stdout", stdout), ("stderr", stderr))]
        environment = {**own_environment(), "DS_ACCELERATOR": "cpu", **{k: str(v) for k, v in (env or {}).items()}}
        place = {"streams": paths, "cwd": str(cwd or REPOSITORY), "first": first, "ignores": list(ignores)}
        self.pid = self._forker.ask(words=self.args, env=environment, **place)
        for descriptor in self._inner:
            os.close(descriptor)

    def _open(self, name, given):
        if given != subprocess.PIPE:
            return f"/proc/{os.getpid()}/fd/{self._inner[-1]}" if given == subprocess.STDOUT else str(given)
        ends = os.pipe()
        inner, outer, mode = (*ends, "w") if name == "stdin" else (*ends[::-1], "r")
        setattr(self, name, open(outer, mode))  # noqa: SIM115
        self._inner.append(inner)
        return f"/proc/{os.getpid()}/fd/{inner}"

    def poll(self):
        if self.returncode is None:
            self.returncode = self._forker.ask(poll=self.pid)
        return self.returncode

    def wait(self, timeout=300):
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.005)
        return self.returncode

    def communicate(self, timeout=300):
        """What is left to read of its output and its errors, where they are pipes, once it has ended."""
        if hasattr(self, "stdin"):
            self.stdin.close()
        end = time.monotonic() + timeout
        streams = [getattr(self, name, None) for name in ("stdout", "stderr")]
        with concurrent.futures.ThreadPoolExecutor() as reading:
            texts = [stream and reading.submit(stream.read) for stream in streams]
            done = concurrent.futures.wait(filter(None, texts), timeout)
            if done.not_done:
                os.killpg(self.pid, signal.SIGKILL)
        self.wait(max(1, end - time.monotonic()))
        for stream in filter(None, streams):
            stream.close()
        if done.not_done:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return [text and text.result() for text in texts]

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def own_environment():
    """Of the tests' process, without what torchrun would tell of it."""
    ranks = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    return {**{key: value for key, value in os.environ.items() if key not in ranks}, "HF_HUB_OFFLINE": "1"}


GRACE_S = 10  # for the other ranks, when one has failed


def forked(*words, env=None, num_processes=0, timeout=300, **options) -> Finished:
    """`yangtuo WORDS`, by a fork; with `num_processes`, in so many ranks, which end together as under torchrun."""
    ranks = [{}]
    if num_processes:
        size, port = str(num_processes), str(free_port())
        common = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ranks = [{"RANK": str(i), "LOCAL_RANK": str(i), **common} for i in range(num_processes)]
    with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
        program, streams = ["-m", "yangtuo", *words], {"stdout": out.name, "stderr": err.name}
        alive = [Started(program, env={**(env or {}), **rank}, **streams, **options) for rank in ranks]
        code = _first_failure(alive, time.monotonic() + timeout)
        return Finished(code if code >= 0 else 128 - code, out.read(), err.read())  # as a shell tells a signal


def _first_failure(alive, end) -> int:
    """The exit code of the first that failed, else 0; 124 after too long."""
    first = 0
    while alive:
        for process in list(alive):
            code = process.poll()
            if code is None:
                continue
            alive.remove(process)
            if code and not first:
                first, end = code, min(end, time.monotonic() + GRACE_S)
                for other in alive:
                    other.send_signal(signal.SIGTERM)
        if time.monotonic() > end:
            first, end = first or 124, time.monotonic() + GRACE_S
            for process in alive:
                process.kill()
        time.sleep(0.005)
    return first


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def yangtuo(*words, **options) -> Finished:
    return forked(*words, **options)


def log_of(output_dir: Path) -> list[dict]:
    """The steps of log.jsonl."""
    lines = (Path(output_dir) / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if "loss" in entry]


def evaluations_of(output_dir: Path) -> list[dict]:
    lines = (Path(output_dir) / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if "eval_loss" in entry]
