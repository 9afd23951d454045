"""Whatever the engine does to be fast, a run's curve and adapter stay those of the plain, padded, whole step."""

import json
import shutil

import pytest

from tests import tiny
from tests.command import forked, log_of, yangtuo
from tests.invariants.test_execution import LOSS, STEP, WHOLE, assert_same


@pytest.fixture(scope="module", params=[None, "embed_tokens,lm_head"], ids=["lora", "modules_to_save"])
def padded(request, inputs, tmp_path_factory):
    """The reference: transformers' own attention, so padded lines; everything in one micro-batch."""
    out = tmp_path_factory.mktemp("padded") / "out"
    options = {**STEP, **WHOLE, "modules_to_save": request.param, "validation_file": inputs.validation}
    done = yangtuo("train", *inputs.options(out, **options, attn_implementation="sdpa", micro_batch_tokens=100_000))
    assert done.code == 0, done.said
    assert all(entry["prefix_saved"] == 0 and entry["micro_batches"] == 1 for entry in log_of(out))
    return out, options


EXECUTIONS = {
    "shared": {},
    "shared, 1 token a micro-batch": {"micro_batch_tokens": 1},
    "shared, 150 tokens": {"micro_batch_tokens": 150},
    "padded, 300 tokens": {"attn_implementation": "sdpa", "micro_batch_tokens": 300},
    "eager attention": {"attn_implementation": "eager"},
    "checkpointing": {"gradient_checkpointing": True, "micro_batch_tokens": 200},
    "no checkpointing": {"gradient_checkpointing": False},
    "auto": {"gradient_checkpointing": "auto", "micro_batch_tokens": "auto"},
}


@pytest.mark.parametrize("name", EXECUTIONS)
def test_executions_agree(name, padded, inputs, tmp_path):
    reference_out, options = padded
    done = yangtuo("train", *inputs.options(tmp_path / "out", **{**options, **EXECUTIONS[name]}))
    assert done.code == 0, done.said
    assert_same(tmp_path / "out", reference_out)
    steps = log_of(tmp_path / "out")
    if EXECUTIONS[name].get("micro_batch_tokens") == 1:
        assert {entry["micro_batches"] for entry in steps} == {8}
    if not {"attn_implementation", "micro_batch_tokens"} & EXECUTIONS[name].keys():
        assert all(entry["prefix_saved"] > 0.1 for entry in steps)


def in_process(code, *words):
    """The command line in a process whose first lines are the test's own."""
    return forked(*words, first=code)


CHUNKS_OF = "from yangtuo.engine import loss\nloss.CHUNK_BYTES['cpu'] = loss.CHUNK_BYTES_OF_TRAINED_HEAD['cpu'] = {}"
OUT_OF_MEMORY = """
import torch
from yangtuo.engine import runner
real = runner.weighted_sum
def weighted_sum(model, loss, batch):
    total = real(model, loss, batch)  # a real one strikes inside the forward, too
    if model.training and batch.input_ids.numel() > {most}:
        raise torch.OutOfMemoryError("of the test")
    return total
runner.weighted_sum = weighted_sum
"""


@pytest.mark.parametrize("chunk_bytes", [1, 10**9], ids=["16 rows a chunk", "one chunk"])
def test_the_head_in_chunks(chunk_bytes, padded, inputs, tmp_path):
    reference_out, options = padded
    done = in_process(CHUNKS_OF.format(chunk_bytes), "train", *inputs.options(tmp_path / "out", **options))
    assert done.code == 0, done.said
    assert_same(tmp_path / "out", reference_out)


def test_compiled_layers(inputs, tmp_path):
    """The graphs and their derivatives as torch makes them; no code is generated, which takes a minute a graph."""
    options = {**STEP, **WHOLE, "validation_file": inputs.validation}
    done = yangtuo("train", *inputs.options(tmp_path / "plain", **options))
    assert done.code == 0, done.said
    as_graphs = 'from yangtuo.engine import compiled\ncompiled._BACKEND = "aot_eager"'
    done = in_process(as_graphs, "train", *inputs.options(tmp_path / "out", **options, torch_compile=True))
    assert done.code == 0, done.said
    assert "compiled layers" in done.err
    assert "not compiled" not in done.err
    assert_same(tmp_path / "out", tmp_path / "plain")


def test_out_of_memory_halves_and_changes_nothing(padded, inputs, tmp_path):
    reference_out, options = padded
    options = {**options, "micro_batch_tokens": 1200}
    done = in_process(OUT_OF_MEMORY.format(most=350), "train", *inputs.options(tmp_path / "out", **options))
    assert done.code == 0, done.said
    assert "out of memory: step 1 is computed again, in micro-batches of at most 600 tokens" in done.err
    assert_same(tmp_path / "out", reference_out)


def test_short_memory_turns_gradient_checkpointing_on(padded, inputs, tmp_path):
    reference_out, options = padded
    short = "import psutil\npsutil.virtual_memory = lambda: type('memory', (), {'available': 1_000_000})"
    done = in_process(short, "train", *inputs.options(tmp_path / "out", **options))
    assert done.code == 0, done.said
    assert "gradient checkpointing: on, since a row of 196 tokens would not fit otherwise" in done.err
    assert_same(tmp_path / "out", reference_out)


def test_a_resumed_run_computes_layers_twice_as_it_did(inputs, tmp_path):
    """Its micro-batches were made for that; memory may look otherwise now."""
    short = "import psutil\npsutil.virtual_memory = lambda: type('memory', (), {'available': 1_000_000})"
    options = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "per_device_train_batch_size": 8}
    words = inputs.options(tmp_path / "out", **options)
    assert in_process(short, "train", *words).code == 0
    shutil.rmtree(tmp_path / "out" / "sft_lora_model")
    shutil.rmtree(tmp_path / "out" / "checkpoint-2")
    run = tmp_path / "out" / "run.json"
    run.write_text(json.dumps({**json.loads(run.read_text()), "state": "running"}))
    done = yangtuo("train", *words)
    assert done.code == 0, done.said
    assert "resuming from" in done.said
    assert "gradient checkpointing: on" in done.said


def test_out_of_memory_with_one_row_is_an_error(inputs, tmp_path):
    done = in_process(OUT_OF_MEMORY.format(most=10), "train", *inputs.options(tmp_path / "out"))
    assert done.code == 1
    assert "out of memory with one row a micro-batch" in done.err
    assert "Traceback" not in done.said


SLOPE = """
from yangtuo.engine import loss
real = loss._losses_and_slopes
def wrong(*args):
    losses, *slopes = real(*args)
    return losses, *(slope * {} for slope in slopes)
loss._losses_and_slopes = wrong
"""
CELLS = "from yangtuo.engine import attention\nreal = attention.take\n"
CELLS += "attention.take = lambda tensor, places: real(tensor, places).roll(1, 0)"  # rows that see other rows


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (SLOPE.format(1.01), "the logits of all positions are computed at once: the gradient would be off by 0.01,"),
        (CELLS, "rows are padded: the gradient would be off by 0.9"),
    ],
    ids=["a gradient", "an attention"],
)
def test_a_fault_of_a_shortcut_is_noticed_before_the_first_step(fault, told, padded, inputs, tmp_path):
    reference_out, options = padded
    done = in_process(fault, "train", *inputs.options(tmp_path / "out", **options))
    assert done.code == 0, done.said
    assert f"engine: {told}" in done.err
    assert_same(tmp_path / "out", reference_out)


def test_a_fault_as_small_as_rounding_is_seen_in_the_curve(padded, inputs, tmp_path):
    """The comparison of these tests is finer than the trial at the start: a gradient off by 0.0005 fails it."""
    reference_out, options = padded
    done = in_process(
        SLOPE.format(1.0005), "train", *inputs.options(tmp_path / "out", **{**options, "max_grad_norm": 0})
    )
    assert done.code == 0, done.said
    with pytest.raises(AssertionError):
        assert_same(tmp_path / "out", reference_out)


def test_the_order_of_rows_within_a_step_and_the_other_rows_of_it_change_no_row(inputs, tmp_path):
    """Perturbing one row of a step changes no other row's loss: seen in losses that add up."""
    rows = tiny.rows(8)
    sums = {}
    for name, chosen in {
        "all": rows,
        "reversed": rows[::-1],
        "first": rows[:4],
        "last": rows[4:],
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        tiny.write_rows(folder / "a.json", chosen)
        out = folder / "out"
        options = {"dataset_dir": folder / "a.json", "data_order": "sequential", "max_steps": 1}
        options |= {"per_device_train_batch_size": len(chosen)}
        done = yangtuo("train", *inputs.options(out, **options, lr_scheduler_type="constant"))
        assert done.code == 0, done.said
        entry = log_of(out)[0]
        sums[name] = entry["loss"] * entry["num_supervised_tokens"]
    assert sums["all"] == pytest.approx(sums["reversed"], rel=1e-6)
    assert sums["all"] == pytest.approx(sums["first"] + sums["last"], rel=1e-6)


@pytest.mark.parametrize("find_unused", ["True", "False"])
def test_two_processes_run_out_of_memory_together(find_unused, inputs, tmp_path):
    """Only rank 1 is short; both redo the step, and the curve is that of one process."""
    options = {
        "ddp_find_unused_parameters": find_unused,
        "max_steps": 3,
        "lora_dropout": 0,
        "per_device_train_batch_size": 4,
        "micro_batch_tokens": 1000,
    }
    fault = OUT_OF_MEMORY.format(most="(200 if __import__('os').environ['RANK'] == '1' else 10**9)")
    done = forked("train", *inputs.options(tmp_path / "two", **options), first=fault, num_processes=2)
    assert done.code == 0, done.said
    assert "is computed again" in done.err
    alone = yangtuo("train", *inputs.options(tmp_path / "one", **{**options, "per_device_train_batch_size": 8}))
    assert alone.code == 0, alone.said
    a, b = ([entry["loss"] for entry in log_of(tmp_path / name)] for name in ("one", "two"))
    assert a == pytest.approx(b, abs=LOSS)
