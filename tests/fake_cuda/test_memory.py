"""Bytes that a step has live at most, per cell, beside the estimate that decides how large micro-batches are."""

import pytest

from tests.fake_cuda.micro_batch import Setup
from tests.fake_cuda.recordings import MEMORY, MEMORY_LAYERS, MEMORY_LENGTHS, MEMORY_SUPERVISED
from yangtuo.engine.memory import ModelShape

KINDS = list(MEMORY_SUPERVISED)


def bytes_per_cell(traces, name, kind):
    """The slope between two lengths, so that what does not grow with the cells is left out."""
    few, many = (traces[f"{name} {kind} {length}"] for length in MEMORY_LENGTHS)
    taken = [trace.peak - trace.steady for trace in (few, many)]
    return (taken[1] - taken[0]) / (many.cells - few.cells)


def shape_of(name):
    shape, options = MEMORY[name]
    config = Setup((1,), shape=shape, num_layers=MEMORY_LAYERS).config()
    return ModelShape.of(config, 2, int(options[options.index("--lora_rank") + 1]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MEMORY)
def test_each_tensor_that_grows_with_the_cells_is_accounted_for(traces, name, kind):
    estimate = shape_of(name).bytes_per_cell(checkpointing=kind == "checkpointed")
    assert estimate == pytest.approx(
        bytes_per_cell(traces, name, kind), rel=0.03
    )  # the first of two layers keeps no masks


@pytest.mark.parametrize("name", MEMORY)
def test_checkpointing_keeps_a_layers_input_only(traces, name):
    few, many = (traces[f"{name} checkpointed {length}"] for length in MEMORY_LENGTHS)
    hidden = Setup((1,), shape=MEMORY[name][0]).config().hidden_size
    kept = ((many.kept - many.steady) - (few.kept - few.steady)) / (many.cells - few.cells)
    assert kept <= 2 * hidden * (MEMORY_LAYERS + 4)
