"""The process that a call runs in: what libraries are told before they load, and what the caller gets back unchanged.

A library leaves the root logger, the warnings filter and the settings of other libraries as they were. What yangtuo
says goes to the standard logger `yangtuo`; without a handler of the caller's, Python shows its warnings on stderr.
"""

import contextlib
import os
from collections.abc import Iterator

from yangtuo import logs, output
from yangtuo.errors import OutOfMemoryError, WriteError, is_out_of_memory, one_line
from yangtuo.i18n import Message
from yangtuo.model import hubs


def set_environment() -> None:
    """What torch, huggingface_hub and trackers read when they are imported; a value of the user's stays."""
    _wait_briefly()
    hubs.keep_to_mirror()
    _send_nothing_unasked()


def _wait_briefly() -> None:
    """Have torch's threads on a CPU sleep where they wait for each other longer than some microseconds.

    By default they wait busily, for a processor that another program has. Two such programs on two cores made a step 3
    to 21 times slower; so it is 2.6 times, and alone as fast as before (docs/log.md). GNU's OpenMP, which torch brings
    along, reads the variable when it is loaded.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def _send_nothing_unasked() -> None:
    """Turn off what trackers tell their makers; accelerate imports each that is installed, asked for or not.

    Seen with mlflow 3.17, which looks up at its maker's where to send; W&B sends its own errors. A value of the user's
    stays.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")


def memory_is_full(error: RuntimeError) -> OutOfMemoryError:
    """The error of ours for a device's memory that is full."""
    told = one_line(error, 200)
    return OutOfMemoryError(
        "the memory of the device is full ({told}); a smaller model, --load_in_4bit, a smaller --max_seq_length or "
        "--micro_batch_tokens take less, --use_cpu does without it",
        told=told,
    )


@contextlib.contextmanager
def as_library(*, computes: bool = True) -> Iterator[None]:
    """Around every call of the API: errors by name, notes of this call alone, other libraries quiet meanwhile.

    Args:
        computes: whether transformers is needed; it is not imported otherwise.

    Raises:
        OutOfMemoryError: the memory of the device is full.
        WriteError: a disk does not take a file.
    """
    set_environment()
    with logs.noting(), logs.quiet() if computes else contextlib.nullcontext():
        try:
            yield
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise memory_is_full(error) from error
        except OSError as error:
            if error.errno not in output.OF_DISKS:
                raise
            raise WriteError(
                "{filename}: cannot be written: {reason}",
                filename=error.filename or Message("a file"),
                reason=output.reason(error),
            ) from error
