"""Ends this process at one of its writes into a folder. Runs inside the program, before anything of it.

Python tells an audit hook of every file that it opens, renames or removes, before it does so. What is written without
Python, as safetensors does in Rust, raises no event; there the kernel ends the process, at the first byte beyond the
largest size that a file may have (RLIMIT_FSIZE).
"""

import os
import resource
import signal
import sys
from pathlib import Path

import psutil

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PATHS = {  # of each event: positions of its paths and of their folders' descriptors
    "os.rename": ((0, 2), (1, 3)),
    "os.remove": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.rmdir": ((0, 1),),
}


def arm(folder, record, *, at=0, way="kill", num_bytes=0):
    """Count the writes into `folder`, name each in the file `record`, and end rank 0 at number `at`, from 1.

    Ways: "kill" before the write happens; "kill all" ranks so, as when the power fails; "tear" the file that is being
    written after `num_bytes`; "stop" by SIGTERM, which asks for the end of the step.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    folder = str(folder)
    named = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    number = 0

    def hook(event, args):
        nonlocal number
        paths = _written(event, args)
        inside = [path for path in paths if path == folder or path.startswith(f"{folder}/")]
        if not inside:
            return
        number += 1
        names = [os.path.relpath(path, folder) for path in paths]
        os.write(named, f"{event.removeprefix('os.')} {' '.join(names)}\n".encode())
        if number == at:
            _end(way, num_bytes + (os.path.getsize(inside[0]) if event == "open" and args[2] & os.O_APPEND else 0))

    sys.addaudithook(hook)


def _written(event, args):
    if event == "open":
        path, _, flags = args
        writes = not isinstance(path, int) and (flags or 0) & _WRITES
        return [os.path.abspath(os.fsdecode(path))] if writes else []
    return [_absolute(args[path], args[folder]) for path, folder in _PATHS.get(event, ())]


def _absolute(path, descriptor):
    """`shutil.rmtree` names what it removes by the descriptor of the folder that it lies in."""
    beside = os.readlink(f"/proc/self/fd/{descriptor}") if descriptor >= 0 else os.getcwd()
    return os.path.normpath(os.path.join(beside, os.fsdecode(path)))


def _end(way, num_bytes):
    if way == "tear":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))
        return
    if way == "kill all":
        for process in psutil.Process(os.getppid()).children():
            if process.pid != os.getpid():
                process.kill()
    os.kill(os.getpid(), signal.SIGTERM if way == "stop" else signal.SIGKILL)


def read(record):
    """The writes that a run has named, in order."""
    return Path(record).read_text().splitlines()
