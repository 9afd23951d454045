"""`python -m yangtuo.cli.torchrun`: torchrun itself, with the failing process's exit code in place of a stack trace.

torchrun ends with code 1 and the trace of a ChildFailedError whatever happened, which buries the one line that the
failing process has printed. Same options, same behaviour otherwise; plain torchrun works as well.
"""

import logging
import os
import signal
import socket
import sys

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from yangtuo import logs

_STOPPED = (129, 130, 143)  # by SIGHUP, SIGINT or SIGTERM; that process has said so


def main() -> int:
    """Run torchrun with this process's arguments."""
    logs.prepare()
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    # Else restarted processes find the addresses of the dead ones (pytorch issue 135712).
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    args = run.parse_args(sys.argv[1:])  # type: ignore[no-untyped-call]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        # Under nohup. torchrun would handle it all the same, hand it on to processes that ignore it, and kill them.
        args.signals_to_handle = ",".join(name for name in args.signals_to_handle.split(",") if name != "SIGHUP")
    # torchrun gives each process one thread and a warning; on a CPU that trains, all cores have work.
    num_processes = run.determine_local_world_size(args.nproc_per_node)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // num_processes)))
    try:
        run.run(args)  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        (rank, failure), host = error.get_first_failure(), socket.gethostname()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            logs.say(f"error: the process of rank {rank} on {host} was ended by {name}{_why(name)}")
        elif failure.exitcode not in (1, 2, *_STOPPED):
            logs.say(f"error: the process of rank {rank} on {host} ended with code {failure.exitcode}")
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode  # as a shell tells a signal
    except SignalException as error:
        return 128 + error.sigval
    return 0


def _why(name: str) -> str:
    if name != "SIGKILL":
        return ""
    return (
        "; if nobody did that by hand, the system was out of memory (dmesg tells). The same command goes on from the "
        "last checkpoint"
    )


if __name__ == "__main__":
    code = main()
    logs.end()
    sys.exit(code)
