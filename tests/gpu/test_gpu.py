"""What only a CUDA device can show: its attention kernel, 16-bit training, the loss scale, memory that runs out."""

import json
import shutil

import numpy as np
import pytest
import torch

from tests.command import forked, log_of
from tests.distributed.launch import assert_bit_identical, engine_files
from yangtuo.engine import attention
from yangtuo.engine.attention import TreeRows, prefix_shared_attention
from yangtuo.engine.calibration import cells_that_fit, kept_bytes

RUN = {"per_device_train_batch_size": 8, "max_steps": 6}


@pytest.fixture(scope="session")
def base(inputs, tmp_path_factory):
    """A LLaMA whose heads are as wide as the kernel wants them."""
    import transformers

    from tests import tiny

    folder = tmp_path_factory.mktemp("gpu") / "base"
    config = transformers.AutoConfig.from_pretrained(inputs.base, hidden_size=128, intermediate_size=256)
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tiny.tiny_sentencepiece(folder)
    return folder


def curve_of(inputs, base, out, *, expect=0, first="", **changes):
    done = forked("train", *inputs.options(out, **{**RUN, "model_name_or_path": base, **changes}), first=first)
    assert done.code == expect, done.said
    return [entry["loss"] for entry in log_of(out)], done


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_kernel_agrees_with_rows_one_by_one(dtype, monkeypatch):
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("varlen_attn needs Ampere or later")
    torch.manual_seed(0)
    sequences = [np.arange(40), np.concatenate([np.arange(16), np.arange(40, 70)]), np.arange(70, 75)]
    tree = TreeRows.of(sequences, 75, torch.device("cuda"))
    q, k, v = (torch.randn(1, heads, 75, 32, device="cuda", dtype=dtype, requires_grad=True) for heads in (4, 2, 2))
    results = []
    for has_kernel in (True, False):
        monkeypatch.setattr(attention, "_takes", lambda query, has=has_kernel: has)
        output, _ = prefix_shared_attention(None, q, k, v, None, tree=tree)
        results.append((output, *torch.autograd.grad(output.float().square().sum(), (q, k, v))))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a.float(), b.float(), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("precision", [{}, {"bf16": True}, {"fp16": True}], ids=["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("modules_to_save", [None, "embed_tokens,lm_head"])
def test_sharing_prefixes_gives_the_padded_curve(precision, modules_to_save, inputs, base, tmp_path):
    options = {**precision, "modules_to_save": modules_to_save}
    shared, _ = curve_of(inputs, base, tmp_path / "shared", **options)
    padded, _ = curve_of(inputs, base, tmp_path / "padded", **options, attn_implementation="sdpa")
    assert shared == pytest.approx(padded, abs=2e-2 if precision else 1e-4)
    assert shared[-1] < shared[0]
    assert all(entry["prefix_saved"] > 0.1 for entry in log_of(tmp_path / "shared"))


def test_float16_goes_on_with_its_loss_scale(inputs, base, tmp_path):
    options = {"fp16": True, "save_strategy": "steps", "save_steps": 3, "lora_dropout": 0.1, "full_determinism": True}
    curve_of(inputs, base, tmp_path / "whole", **options)
    curve_of(inputs, base, tmp_path / "out", **options)
    shutil.rmtree(tmp_path / "out" / "sft_lora_model")
    shutil.rmtree(tmp_path / "out" / "checkpoint-6")
    run = tmp_path / "out" / "run.json"
    run.write_text(json.dumps({**json.loads(run.read_text()), "state": "running"}))
    position = json.loads((tmp_path / "out" / "checkpoint-3" / "training_state.json").read_text())
    assert position["optimizer"]["scaler"]["scale"] > 0
    _, done = curve_of(inputs, base, tmp_path / "out", **options)
    assert "resuming from" in done.said
    assert_bit_identical(tmp_path / "out", tmp_path / "whole")


def test_memory_that_runs_out_halves_the_micro_batch(inputs, base, tmp_path):
    """Real: the process may have 40 MB of the device, and all rows are asked for at once."""
    options = {"max_seq_length": 384, "modules_to_save": "embed_tokens,lm_head"}
    plain, _ = curve_of(inputs, base, tmp_path / "plain", **options)
    total = torch.cuda.get_device_properties(0).total_memory
    first = f"import torch; torch.cuda.set_per_process_memory_fraction({40e6 / total})"
    short, done = curve_of(inputs, base, tmp_path / "short", **options, first=first, micro_batch_tokens=100_000)
    assert "out of memory: step" in done.said
    assert short == pytest.approx(plain, abs=1e-3)


@pytest.mark.parametrize("name", ["zero2", "zero3", "fsdp2"])
def test_memory_is_measured_where_a_step_cannot_be_redone(name, inputs, base, tmp_path):
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed (extra deepspeed)")
    engine = engine_files(tmp_path)[name]
    options = inputs.options(tmp_path / "out", **{**RUN, "model_name_or_path": base})
    done = forked("train", *options, *map(str, engine.options), num_processes=1)
    assert done.code == 0, done.said
    assert "by a measurement of the memory" in done.said


def test_kept_bytes_are_those_of_the_forward():
    device = torch.device("cuda")
    x = torch.zeros(1 << 20, device=device)
    assert kept_bytes(lambda: x * 2, device) == 4 << 20
    assert cells_that_fit([(1000, 1 << 20), (2000, 2 << 20)], 100 << 20) > 10_000
