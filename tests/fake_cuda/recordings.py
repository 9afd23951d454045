"""The child process of these tests: records all that they look at. `python -m tests.fake_cuda.recordings LIBRARY OUT`.

Each recording has a twin where that is cheap: the same with something undone, on which the tests have to fail.
"""

import pickle
import sys
from pathlib import Path

import torch

from tests.fake_cuda import device
from tests.fake_cuda.micro_batch import Setup, record
from tests.fake_cuda.recorder import Recorder
from tests.fake_cuda.trace import Trace

_ROWS = {"lengths": (50, 60, 70), "common": 20}
_LORA = ("--lora_rank", "8", "--lora_dropout", "0.1")
_FULL = (*_LORA, "--modules_to_save", "embed_tokens,lm_head")
_CHECKPOINTED = ("--gradient_checkpointing", "True")
_WIDE = (("yangtuo.training.load.keep_narrow", lambda *args: None),)
_TWIN = {"num_steps": 1, **_ROWS}
_TURING = {"capability": (7, 5), "stored": torch.float16, **_TWIN}

MEMORY = {
    "7B": ("llama2-7b", ("--lora_rank", "8", "--lora_dropout", "0.05")),
    "8B": ("llama3-8b", ("--lora_rank", "16", "--lora_dropout", "0.1")),
}
MEMORY_LENGTHS = (2048, 4096)
# With a loss at few cells, so that one layer's recomputation decides the peak, as in long rows, and not a loss's chunk.
MEMORY_SUPERVISED = {"plain": 1.0, "checkpointed": 0.02}
MEMORY_LAYERS = 2


def _waiting(query: torch.Tensor) -> bool:
    return bool((query.sum() > 0).item()) or True


def setups() -> dict[str, Setup]:
    """All but the one that is not a run."""
    found = {
        "LoRA": Setup(options=_LORA, **_ROWS),
        "full": Setup(options=_FULL, **_ROWS),
        "checkpointed": Setup(options=(*_LORA, *_CHECKPOINTED), **_ROWS),
        "float16": Setup(options=(*_LORA, "--fp16"), stored=torch.float16, **_ROWS),
        "full, originals too": Setup(
            options=_FULL, changes=(("yangtuo.engine.trainer.to_main_memory", lambda model: None),), **_ROWS
        ),
        "apart": Setup(lengths=(50, 60, 70), options=_LORA, num_steps=1),
        "shallower": Setup(options=_LORA, num_layers=1, **_ROWS),
        "LoRA, wide": Setup(options=_LORA, changes=_WIDE, **_TWIN),
        "full, wide": Setup(options=_FULL, changes=_WIDE, **_TWIN),
        "float16 over bfloat16": Setup(options=(*_LORA, "--fp16"), **_TWIN),
        "waiting": Setup(options=_LORA, changes=(("yangtuo.engine.attention._takes", _waiting),), **_TWIN),
        "Turing": Setup(options=_LORA, **_TURING),
        "Turing, in groups": Setup(
            options=_LORA, changes=(("yangtuo.engine.attention._has_kernel_for_groups", lambda *args: True),), **_TURING
        ),
    }
    for name, (shape, options) in MEMORY.items():
        for kind, supervised in MEMORY_SUPERVISED.items():
            more = _CHECKPOINTED if kind == "checkpointed" else ("--gradient_checkpointing", "False")
            for length in MEMORY_LENGTHS:
                found[f"{name} {kind} {length}"] = Setup(
                    (length,), (*options, *more), shape, MEMORY_LAYERS, supervised=supervised, num_steps=1
                )
    return found


def waits() -> Trace:
    """Operations for which the host waits, or does not, one after the other."""
    recorder, trace = Recorder(), Trace()
    with device.fake_device((9, 0), lambda: recorder.live, 1 << 30), recorder:
        x = torch.zeros(4, 4, device=device.DEVICE)
        recorder.begin()
        for compute in (
            lambda: x.sum().item(),
            lambda: x.cpu(),
            lambda: torch.ones(4).to(device.DEVICE),
            lambda: torch.ones(4).to(device.DEVICE, non_blocking=True),
            lambda: x.copy_(torch.ones(4, 4)),
            lambda: x.to(torch.bfloat16),
            lambda: torch.index_put(x, (torch.ones(4, dtype=torch.bool, device=device.DEVICE),), x.new_zeros(())),
        ):
            compute()
    trace.ops = recorder.ops
    return trace


def main() -> None:
    """Record and write."""
    library, out = map(Path, sys.argv[1:])
    device.load(library)
    traces = {"waits": waits()} | {name: record(setup) for name, setup in setups().items()}
    out.write_bytes(pickle.dumps(traces))


if __name__ == "__main__":
    main()
