"""`python -m yangtuo.torchrun`: torchrun itself, with the failing process's exit code in place of a stack trace.

torchrun ends with code 1 and the trace of a ChildFailedError whatever happened, which buries the one line that the
failing process has printed. Same options, same behaviour otherwise; plain torchrun works as well.
"""

import logging
import sys

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def main() -> int:
    """Run torchrun with this process's arguments."""
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        run.run(run.parse_args(sys.argv[1:]))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode
        if code not in (1, 2):
            sys.stderr.write(f"error: the process of rank {rank} ended with exit code {code}\n")
        return code if code > 0 else 128 - code  # killed by a signal: negative here, 128 + n for a shell
    return 0


if __name__ == "__main__":
    sys.exit(main())
