"""The program as torchrun starts it, with what a test needs and the product must not have.

Asked for by environment variables: FSDP_ON_CPU; SMALL_CHUNKS of the head; BFLOAT16; MEASURED memory; NO_CHECK_OF_ROOM;
"rank:step" in FAIL_AT (an error), KILL_AT, STOP_AT, TERM_AT (signals); ATTEMPT, the only restart in which they come;
STEP_SECONDS, a sleep in each step.
"""

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))


def fsdp_on_cpu():
    """accelerate leaves FSDP out on a CPU unless its state says otherwise; the product refuses it there."""
    from accelerate import DistributedType, PartialState

    from yangtuo.training import environment

    real = environment.training_arguments

    def training_arguments(*args):
        result = real(*args)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        return result

    environment.check_engines = lambda settings, hardware, *, merges: None
    environment.training_arguments = training_arguments


def failing():
    from yangtuo.engine.runner import StepRunner
    from yangtuo.errors import RunFailure

    real = StepRunner.run

    def fail(self, model, step, place):
        rank, number = map(int, os.environ["FAIL_AT"].split(":"))
        if (rank, number) == (int(os.environ["RANK"]), place.step):
            raise RunFailure(f"step {number}: the test's own failure")
        return real(self, model, step, place)

    StepRunner.run = fail


def measured():
    """A CPU keeps no account of its memory: the forwards are real, the bytes are not."""
    import torch

    from yangtuo.engine import calibration, trainer

    kept = iter((100_000, 300_000))

    def kept_bytes(compute, device):
        compute()
        return next(kept)

    calibration.kept_bytes, calibration.free_bytes = kept_bytes, lambda device: 1_000_000
    trainer.can_measure = lambda device: True
    torch.accelerator.empty_cache = lambda: None


def signals(which):
    from yangtuo.engine.callbacks import Callbacks

    real = Callbacks.on_step_end

    def on_step_end(self, args, state, control, **kwargs):
        for name, number in which.items():
            rank, step = map(int, os.environ[name].split(":"))
            if (rank, step) == (args.process_index, state.global_step):
                os.kill(os.getpid(), number)
        time.sleep(float(os.environ.get("STEP_SECONDS", "0")))
        return real(self, args, state, control, **kwargs)

    Callbacks.on_step_end = on_step_end


def prepare():
    """What the environment asks for."""
    if os.environ.get("FSDP_ON_CPU"):
        fsdp_on_cpu()
    if os.environ.get("ATTEMPT", "") not in ("", os.environ.get("TORCHELASTIC_RESTART_COUNT")):
        os.environ.pop("KILL_AT", None)
    if "FAIL_AT" in os.environ:
        failing()
    if "SMALL_CHUNKS" in os.environ:
        from yangtuo.engine import loss

        loss.CHUNK_BYTES["cpu"] = 1
    if "BFLOAT16" in os.environ:
        from yangtuo.model import processor

        processor.detect_hardware = lambda use_cpu: processor.Hardware("cpu", bfloat16=True, float16=False)
    if "MEASURED" in os.environ:
        measured()
    if "NO_CHECK_OF_ROOM" in os.environ:
        from yangtuo.engine import checkpoint

        checkpoint.check_room = lambda *args: None
    names = {"KILL_AT": signal.SIGKILL, "STOP_AT": signal.SIGSTOP, "TERM_AT": signal.SIGTERM}
    if "STEP_SECONDS" in os.environ or names.keys() & os.environ.keys():
        signals({name: number for name, number in names.items() if name in os.environ})


if __name__ == "__main__":
    from yangtuo.cli import main

    prepare()
    sys.exit(main(["train", *sys.argv[1:]]))
