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

from yangtuo import i18n, logs
from yangtuo.i18n import Listed, Message, tr

_STOPPED = (129, 130, 143)  # by SIGHUP, SIGINT or SIGTERM; that process has said so
_OF_MEMORY = Message(
    "if nobody killed it, the machine ran out of memory (see dmesg). The same command goes on from the last checkpoint"
)


def main() -> int:
    """Run torchrun with this process's arguments."""
    logs.prepare()
    i18n.use(i18n.of_machine())
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
            told = Message(
                "error: the process of rank {rank} on {host} was ended by {name}", rank=rank, host=host, name=name
            )
            logs.say(tr(Listed([told, _OF_MEMORY], "; ") if name == "SIGKILL" else told))
        elif failure.exitcode not in (1, 2, *_STOPPED):
            code = failure.exitcode
            told = Message(
                "error: the process of rank {rank} on {host} ended with code {code}", rank=rank, host=host, code=code
            )
            logs.say(tr(told))
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode  # as a shell tells a signal
    except SignalException as error:
        return 128 + error.sigval
    return 0


if __name__ == "__main__":
    code = main()
    logs.end()
    sys.exit(code)
