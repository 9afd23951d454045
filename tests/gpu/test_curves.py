"""The losses of runs on a GPU: however they are executed, and on whatever, they are the same."""

import pytest
import torch

PRECISIONS = {"float32": {}, "bfloat16": {"bf16": True}, "float16": {"fp16": True}}
BOTH = "embed_tokens,lm_head"

# Appends a character for each call of the kernel.
COUNTING = """
from yangtuo.engine import attention
real = attention.varlen_attn
def varlen_attn(*args, **kwargs):
    with open({place!r}, "a") as file:
        file.write(".")
    return real(*args, **kwargs)
attention.varlen_attn = varlen_attn
"""


@pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)
@pytest.mark.parametrize("modules_to_save", [None, BOTH])
def test_sharing_prefixes_gives_the_padded_curve(precision, modules_to_save, train):
    options = {**precision, "modules_to_save": modules_to_save}
    shared = train("shared", **options)
    padded = train("padded", **options, attn_implementation="sdpa")
    assert shared.losses == pytest.approx(padded.losses, abs=2e-2 if precision else 1e-4)
    assert shared.losses[-1] < shared.losses[0]
    assert all(step["prefix_saved"] > 0.1 for step in shared.steps)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_2023_recipe_reaches_the_kernel_in_16_bit(precision, train, tmp_path):
    """A trained embedding is float32, and would make queries float32, for which there is no kernel.

    In float32 itself none is called, which shows that calls are counted.
    """
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("varlen_attn needs Ampere or later")
    place = tmp_path / "calls"
    run = train("out", **PRECISIONS[precision], modules_to_save=BOTH, first=COUNTING.format(place=str(place)))
    num_calls = len(place.read_text()) if place.is_file() else 0
    num_layers = 2
    if precision == "float32":
        assert num_calls == 0
    else:
        assert num_calls >= num_layers * sum(step["micro_batches"] for step in run.steps)


def test_the_gpu_learns_as_the_cpu_does(train):
    """In float32, within what another order of additions does; another seed's curve is further away."""
    on_gpu = train("gpu")
    on_cpu = train("cpu", use_cpu=True)
    assert on_gpu.losses == pytest.approx(on_cpu.losses, abs=1e-3)
    other = train("other", use_cpu=True, seed=7)
    assert on_cpu.losses != pytest.approx(other.losses, abs=1e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_window_smaller_than_the_rows_holds_within_each_row(precision, new_base, train):
    """Such layers have no kernel of 16 bit, and take a mask in blocks; a wide window is another model."""
    narrow = {**PRECISIONS[precision], "model_name_or_path": new_base("mistral", sliding_window=24)}
    shared = train("shared", **narrow)
    padded = train("padded", **narrow, attn_implementation="sdpa")
    assert shared.losses == pytest.approx(padded.losses, abs=2e-2 if precision == "bfloat16" else 1e-4)
    assert all(step["prefix_saved"] > 0.1 for step in shared.steps)
    if precision == "float32":
        wide = train("wide", model_name_or_path=new_base("mistral", sliding_window=4096))
        assert wide.losses != pytest.approx(shared.losses, abs=1e-4)


def test_a_base_in_4_bits_learns(train):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (extra qlora)")
    options = {"bf16": True} if torch.cuda.get_device_capability() >= (8, 0) else {"fp16": True}
    whole, rounded = train("whole", **options), train("rounded", **options, load_in_4bit=True)
    assert "frozen in 4 bits (nf4)" in rounded.done.said
    assert rounded.losses[0] == pytest.approx(whole.losses[0], abs=0.2)
    assert rounded.losses[-1] < rounded.losses[0]
