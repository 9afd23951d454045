"""The parts of the memory that a run needs, by values."""

from dataclasses import replace

import pytest

from yangtuo.engine.memory import MOST_CELLS, ModelShape
from yangtuo.model.model_sizes import ModelSizes
from yangtuo.training.memory_plan import Machine, Run, changes_that_fit, plan, usable_bytes

GIB = 1 << 30
SHAPE = ModelShape(32, 4096, 11_008, 4096, 4096, 32, 2, 8, 0.05, False)
SIZES = ModelSizes(13 * GIB, GIB // 2, 20_000_000, 0, GIB // 2, 50_000, False, 6_000_000_000, 2.0)
FULL = replace(SIZES, num_full=400_000_000, trains_head=True)
RUN = Run(SHAPE, False, None, 512, 4096, 0, 2000, 256 << 20, "adamw_torch", "one")
CARD = Machine("cuda", 1, usable_bytes(24), 0)


def test_all_parts_of_one_card():
    found = plan(FULL, RUN, CARD)
    assert found.parts["frozen weights"] == 13 * GIB - GIB // 2  # what a trained copy stands in for is not there
    assert found.parts["LoRA"] == 4 * 20_000_000
    assert found.parts["modules in full"] == 4 * 400_000_000
    assert found.parts["optimizer"] == 8 * 420_000_000
    assert found.parts["copies in 16 bits"] == 2 * 420_000_000
    assert sum(found.parts.values()) == found.total
    assert found.as_json()["fits"] is found.fits


def test_micro_batches_are_as_large_as_what_is_free():
    few, many = (plan(SIZES, RUN, replace(CARD, free_bytes=gib * GIB)) for gib in (18, 22))
    assert RUN.longest < few.cells < many.cells
    assert few.fits
    assert many.fits
    most = plan(SIZES, replace(RUN, step_cells=10**6), replace(CARD, free_bytes=1000 * GIB))
    assert most.cells == MOST_CELLS["cuda"]
    assert plan(SIZES, replace(RUN, step_cells=100), replace(CARD, free_bytes=1000 * GIB)).cells == RUN.longest
    assert plan(SIZES, replace(RUN, most_cells=700), CARD).cells == 700


def test_where_the_longest_row_does_not_fit_the_plan_does_not():
    assert not plan(SIZES, RUN, replace(CARD, free_bytes=14 * GIB)).fits


@pytest.mark.parametrize(
    ("optimizer", "size"), [("adamw_torch", 8), ("adamw_bnb_8bit", 2), ("sgd", 0), ("something_new", 8)]
)
def test_optimizers(optimizer, size):
    found = plan(SIZES, replace(RUN, optimizer=optimizer), CARD)
    assert found.parts.get("optimizer", 0) == size * SIZES.num_trained


def test_engines_divide_what_they_say():
    cards = replace(CARD, num_devices=4, free_bytes=100 * GIB)
    one, ddp, zero2, fsdp = (plan(FULL, replace(RUN, engine=name), cards) for name in ("one", "ddp", "zero2", "fsdp"))
    assert "engine" not in one.parts
    assert ddp.parts["engine"] == 4 * FULL.num_trained
    assert zero2.parts["optimizer"] == 8 * FULL.num_trained // 4
    assert zero2.parts["frozen weights"] == one.parts["frozen weights"]
    assert fsdp.parts["frozen weights"] == (13 * GIB - GIB // 2) // 4 + GIB  # two layers are gathered


def test_a_cpu_is_shared_by_its_processes_and_keeps_originals():
    machine = Machine("cpu", 2, 64 * GIB, GIB // 2)
    found = plan(FULL, replace(RUN, shape=replace(SHAPE, is_fused=True)), machine)
    assert found.there == 32 * GIB
    assert found.parts["program"] == GIB // 2
    assert found.parts["frozen weights"] == 13 * GIB


def test_the_cheapest_changes_that_fit_each_alone_before_pairs():
    variants = {'--modules_to_save ""': FULL.without_full(), "--load_in_4bit": FULL.quantised(4)}
    found = changes_that_fit(FULL, RUN, replace(CARD, free_bytes=19 * GIB), variants)
    options = [change.options for change in found]
    assert options[:2] == ['--modules_to_save ""', "--load_in_4bit"]
    assert all(change.plan.fits for change in found)
    small = changes_that_fit(FULL, RUN, replace(CARD, free_bytes=15 * GIB), variants)
    assert "--gradient_checkpointing" not in [change.options for change in small]
    assert changes_that_fit(FULL, RUN, replace(CARD, free_bytes=GIB), variants) == []


def test_weights_in_float32_under_a_16_bit_forward_are_kept_in_both():
    plain, cast = (plan(SIZES, replace(RUN, casts_weights=is_cast), CARD) for is_cast in (False, True))
    assert cast.parts["copies in 16 bits"] - plain.parts["copies in 16 bits"] == 2 * SIZES.num_linear


def test_what_is_offered_holds_with_all_else_as_it_was_given():
    card = replace(CARD, free_bytes=20 * GIB)
    run = replace(RUN, most_cells=8192, step_cells=8192)
    found = changes_that_fit(SIZES, run, card, {"--load_in_4bit": SIZES.quantised(4)})
    options = [change.options for change in found]
    assert options[0] == "--micro_batch_tokens auto"
    assert not any("--max_seq_length" in each for each in options)  # which a given --micro_batch_tokens makes useless
    assert len(options) == len(set(options))
    four = "--load_in_4bit"
    assert sum(four in each for each in options) <= 1  # once it fits alone, not with others again


def test_weights_are_divided_where_an_engine_may_divide_them():
    cards = replace(CARD, num_devices=8)
    large = replace(SIZES, frozen_bytes=60 * GIB, largest_layer_bytes=GIB)
    asked = replace(RUN, engine="ddp")
    assert [change.options for change in changes_that_fit(large, asked, cards, {})] == ["--fsdp full_shard"]
    for other in (replace(asked, may_divide=False), replace(asked, engine="zero2")):
        assert changes_that_fit(large, other, cards, {}) == []
    assert changes_that_fit(large, asked, replace(cards, kind="cpu"), {}) == []


def test_quantised_sizes():
    """6 thousand million numbers from 2 bytes to half a byte and their scales: 4.9 bits of 16."""
    found = SIZES.quantised(4)
    assert found.frozen_bytes == pytest.approx(13 * GIB - 6e9 * (2 - 0.5 - 1 / 64 - 4 / (64 * 256)), rel=1e-9)
    assert found.largest_layer_bytes < SIZES.largest_layer_bytes / 3


CPU = Machine("cpu", 1, 64 * GIB, 0)


def test_holes_are_counted_where_freed_blocks_stay_apart():
    joined, apart = (plan(SIZES, RUN, replace(CPU, has_thread_cache=cached)).parts for cached in (False, True))
    moving = joined["activations"] + joined["loss of a chunk"]
    assert joined["gaps of the allocator"] == pytest.approx(0.05 * moving, abs=1)
    assert apart["gaps of the allocator"] == pytest.approx(0.38 * moving, abs=1)


def test_rows_of_an_embedding_that_are_not_read_take_no_memory():
    sizes = replace(SIZES, embedding_bytes=GIB)
    mapped = replace(RUN, maps_weights=True)
    assert plan(sizes, mapped, CPU).parts["frozen weights"] == 12 * GIB
    assert plan(sizes, RUN, CPU).parts["frozen weights"] == 13 * GIB
    assert plan(sizes, mapped, CARD).parts["frozen weights"] == 13 * GIB - GIB // 2  # a card has it whole


def test_with_checkpointing_the_larger_of_a_layer_and_a_chunk_counts():
    """Logits of 500 rows of 50,000 are 300 MB three times over, a layer of 512 cells takes 512 x its bytes a cell."""
    run = replace(RUN, checkpointing=True, most_cells=512, step_cells=512, predictions=500)
    found = plan(SIZES, run, CPU).parts
    head = 500 * 50_000 * 12
    layer = int(512 * SHAPE.layer_bytes_per_cell())
    assert found["loss of a chunk"] == head
    both = 512 * SHAPE.bytes_per_cell(checkpointing=True) + head
    assert found["activations"] + head == both - min(layer, head)


def test_a_chunk_is_of_a_micro_batch_and_at_most_full():
    """256 MiB of float32 logits of 50,000 are 1,342 rows; a step has 2,000 predictions: two of 1,000."""
    runs = (replace(RUN, most_cells=cells) for cells in (4096, 3072, 1024))
    whole, most, part = (plan(SIZES, run, CPU).parts for run in runs)
    assert whole["loss of a chunk"] == 1000 * 50_000 * 12
    assert most["loss of a chunk"] == (256 << 20) // 200_000 * 50_000 * 12
    assert part["loss of a chunk"] == 500 * 50_000 * 12


def test_onednn_is_there_in_16_bits_only():
    wide = replace(RUN, shape=replace(SHAPE, width=4))
    difference = plan(SIZES, RUN, CPU).parts["libraries"] - plan(SIZES, wide, CPU).parts["libraries"]
    assert difference == 30 << 20
    assert "libraries" not in plan(SIZES, RUN, CARD).parts
