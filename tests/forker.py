"""Runs the program in forks of a process that has imported everything, which costs five seconds a start otherwise.

Reads requests, one JSON object a line, and answers each with the exit code. With several processes it stands in for
torchrun, and as torchrun does, it ends all ranks when one has failed; what torchrun itself has to do with (messages,
signals, restarts, several machines) is tested with torchrun.
"""

import contextlib
import gc
import json
import os
import signal
import socket
import sys
import time

import torch

GRACE_S = 10


def run(request, rank):
    """Become the program: output, environment, folder, arguments; ends the process."""
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_APPEND), descriptor)
    os.chdir(request["cwd"])
    os.environ |= request["env"]
    if request["num_processes"]:
        size = str(request["num_processes"])
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": request["port"]}
    if "OMP_NUM_THREADS" in request["env"]:  # torch has read it already
        torch.set_num_threads(int(request["env"]["OMP_NUM_THREADS"]))
    sys.argv = ["yangtuo", *request["argv"]]
    try:
        exec(request["first"], {})
        from yangtuo.cli import main

        code = main()
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve(request):
    """Fork the processes; the exit code of the first that failed, as a shell tells it, else 0; 124 after too long."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        request["port"] = str(listening.getsockname()[1])
    alive = set()
    for rank in range(max(1, request["num_processes"])):
        pid = os.fork()
        if pid == 0:
            run(request, rank)
        alive.add(pid)
    first, end = 0, time.monotonic() + request["timeout"]
    while alive:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            if time.monotonic() > end:
                first, end = first or 124, time.monotonic() + GRACE_S
                send(alive, signal.SIGKILL)
            time.sleep(0.01)
            continue
        alive.discard(pid)
        code = os.waitstatus_to_exitcode(status)
        if code and not first:
            first, end = code if code > 0 else 128 - code, min(end, time.monotonic() + GRACE_S)
            send(alive, signal.SIGTERM)
    return first


def send(pids, number):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


if __name__ == "__main__":
    with contextlib.suppress(ImportError):
        import deepspeed  # noqa: F401
    import torch.distributed.fsdp

    import yangtuo.cli.encode
    import yangtuo.training.run  # noqa: F401

    gc.freeze()  # else each run looks through all that was imported, for half a second
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(f"{serve(json.loads(line))}\n")
        sys.stdout.flush()
