"""The memory that is planned, beside the bytes that a step has live at most on a CUDA device."""

import pytest

from tests.fake_cuda.micro_batch import Setup
from tests.fake_cuda.recordings import MEMORY, MEMORY_LAYERS, MEMORY_LENGTHS, MEMORY_SUPERVISED
from yangtuo.config.schema import LoraArguments
from yangtuo.engine.loss import CHUNK_BYTES
from yangtuo.engine.memory import ModelShape
from yangtuo.model.model_sizes import Loading, sizes_of
from yangtuo.training.memory_plan import Machine, Run, plan


def planned(name, kind, length):
    shape, options = MEMORY[name]
    rank = int(options[options.index("--lora_rank") + 1])
    config = Setup((1,), shape=shape, num_layers=MEMORY_LAYERS).config()
    run = Run(
        shape=ModelShape.of(config, 2, rank),
        checkpointing=kind == "checkpointed",
        most_cells=length,
        longest=length,
        step_cells=length,
        repeated=0,
        predictions=round(length * MEMORY_SUPERVISED[kind]),
        chunk_bytes=CHUNK_BYTES["cuda"],
        optimizer="adamw_torch",
        engine="one",
    )
    sizes = sizes_of(config, LoraArguments(lora_rank=rank), Loading(2))
    return plan(sizes, run, Machine("cuda", 1, 80 << 30, 0))


@pytest.mark.parametrize("length", MEMORY_LENGTHS)
@pytest.mark.parametrize("kind", MEMORY_SUPERVISED)
@pytest.mark.parametrize("name", MEMORY)
def test_the_plan_is_the_peak_and_never_below_it(traces, name, kind, length):
    found = planned(name, kind, length)
    counted = found.total - found.parts["program"] - found.parts["gaps of the allocator"]
    peak = traces[f"{name} {kind} {length}"].peak
    assert peak <= counted <= 1.05 * peak, (counted / peak, found.parts)
