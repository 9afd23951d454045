"""The original's loss curve, reproduced through the command line from the same adapters on the same rows."""

import json

import pytest

from tests.command import evaluations_of, log_of, yangtuo

from .conftest import SHARED


@pytest.mark.parametrize(
    ("name", "adapter"), [("N_lora_adamw_torch", "nano_adapter_lora"), ("N_mts_adamw_torch", "nano_adapter_mts")]
)
def test_steps_of_the_first_epoch(name, adapter, nano, alpaca_tokenizer, tmp_path):
    golden = json.loads((SHARED / f"goldens/{name}.json").read_text(encoding="utf-8"))
    rows = json.loads((SHARED / "goldens/nano_data/train.json").read_text(encoding="utf-8"))
    (tmp_path / "data").mkdir()
    in_order = [rows[i] for i in golden["order"]["epochs"][0]]
    (tmp_path / "data" / "zh.json").write_text(json.dumps(in_order), encoding="utf-8")
    options = golden["hyper_parameters"]

    done = yangtuo(
        "train",
        *("--model_name_or_path", nano / "nano_llama", "--tokenizer_name_or_path", alpaca_tokenizer),
        *("--dataset_dir", tmp_path / "data", "--validation_file", SHARED / "goldens/nano_data/valid.json"),
        *("--peft_path", nano / adapter, "--output_dir", tmp_path / "out"),
        *("--loss_reduction", "device_batch", "--data_order", "sequential", "--optim", "adamw_torch"),
        *("--per_device_train_batch_size", 2, "--per_device_eval_batch_size", 2, "--gradient_accumulation_steps", 4),
        *("--learning_rate", options["learning_rate"], "--lr_scheduler_type", "cosine", "--max_steps", 12),
        *("--warmup_ratio", options["warmup_ratio"], "--max_grad_norm", options["max_grad_norm"]),
        *("--evaluation_strategy", "steps", "--eval_steps", 6, "--do_train", "--do_eval", "--save_strategy", "no"),
        *("--max_seq_length", options["max_seq_length"], "--truncation", "right"),
    )
    assert done.code == 0, done.said

    # From step 8 on the original carries left-over micro-batches of an epoch into the next step; ours does not.
    for ours, theirs in zip(log_of(tmp_path / "out")[:7], golden["steps"][:7], strict=True):
        assert ours["step"] == theirs["step"]
        assert ours["learning_rate"] == pytest.approx(theirs["lr_used"], rel=1e-9)
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
        assert ours["num_supervised_tokens"] == sum(micro["target_tokens"] for micro in theirs["micro"])
    at_6 = evaluations_of(tmp_path / "out")[0]
    assert at_6["step"] == 6
    assert at_6["eval_loss"] == pytest.approx(golden["evals"][0]["eval_loss"], abs=1e-5)
