"""Every way to execute a step gives the same curve and the same adapter as one process with the whole step at once."""

import pytest
import torch
from safetensors.torch import load_file

from tests.command import evaluations_of, forked, log_of, yangtuo

STEP = {"max_steps": 6, "do_train": True, "do_eval": True, "save_strategy": "no", "lora_dropout": 0}
WHOLE = {"per_device_train_batch_size": 8}
LOSS, MEAN, WEIGHTS = 2e-6, 5e-7, 2e-5  # largest difference of a step, of the mean over steps, of a trained weight


@pytest.fixture(scope="module", params=[None, "embed_tokens,lm_head"], ids=["lora", "modules_to_save"])
def reference(request, inputs, tmp_path_factory):
    out = tmp_path_factory.mktemp("reference") / "out"
    options = {**STEP, "modules_to_save": request.param, "validation_file": inputs.validation}
    done = yangtuo("train", *inputs.options(out, **options, **WHOLE))
    assert done.code == 0, done.said
    return out, options


def assert_same(out, reference_out):
    ours, theirs = log_of(out), log_of(reference_out)
    assert [entry["rows"] for entry in ours] == [entry["rows"] for entry in theirs] == [8, 8, 8] * 2
    differences = torch.tensor([a["loss"] - b["loss"] for a, b in zip(ours, theirs, strict=True)])
    assert differences.abs().max() <= LOSS
    assert abs(differences.mean()) <= MEAN
    for a, b in zip(ours, theirs, strict=True):
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
        assert a["num_supervised_tokens"] == b["num_supervised_tokens"]
    assert evaluations_of(out)[-1]["eval_loss"] == pytest.approx(
        evaluations_of(reference_out)[-1]["eval_loss"], abs=LOSS
    )
    weights = load_file(out / "sft_lora_model" / "adapter_model.safetensors")
    expected = load_file(reference_out / "sft_lora_model" / "adapter_model.safetensors")
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (weights[name] - tensor).abs().max() <= WEIGHTS, name


@pytest.mark.parametrize(
    "execution",
    [
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
        {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2},  # 6 rows a step: must differ
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "gradient_checkpointing": True},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "dataloader_num_workers": 1},
    ],
    ids=["one row at a time", "negative control", "gradient checkpointing", "a loader process"],
)
def test_one_process(execution, reference, inputs, tmp_path, request):
    reference_out, options = reference
    done = yangtuo("train", *inputs.options(tmp_path / "out", **options, **execution))
    assert done.code == 0, done.said
    if "negative control" in request.node.name:
        with pytest.raises(AssertionError):
            assert_same(tmp_path / "out", reference_out)
    else:
        assert_same(tmp_path / "out", reference_out)


@pytest.mark.parametrize("shape", [(4, 1), (1, 4)], ids=["4 rows", "4 micro-batches"])
def test_two_processes(shape, reference, inputs, tmp_path):
    reference_out, options = reference
    execution = {"per_device_train_batch_size": shape[0], "gradient_accumulation_steps": shape[1]}
    done = forked("train", *inputs.options(tmp_path / "out", **options, **execution), num_processes=2)
    assert done.code == 0, done.said
    assert_same(tmp_path / "out", reference_out)


def test_ranks_without_rows_of_their_own(inputs, tmp_path):
    """24 rows, 16 a step: the second step has 8 rows for 2 ranks x 8, one of which has none."""
    curves = []
    for name, num_processes, rows in (("one", 0, 16), ("two", 2, 8)):
        options = inputs.options(tmp_path / name, per_device_train_batch_size=rows, lora_dropout=0, max_steps=4)
        done = forked("train", *options, num_processes=num_processes)
        assert done.code == 0, done.said
        curves.append([entry["loss"] for entry in log_of(tmp_path / name)])
    assert curves[0] == pytest.approx(curves[1], abs=LOSS)
