"""Will it fit? `check` and `train` say beforehand what a run needs, and six real runs on this CPU took as much."""

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests import tiny
from tests.command import log_of, run, yangtuo

LARGE = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 10, "num_attention_heads": 6}
CONFIGURATIONS = {
    "float32": {},
    "bfloat16": {"torch_dtype": "bfloat16", "bf16": True},
    "checkpointing": {"gradient_checkpointing": True, "per_device_train_batch_size": 12},
    "modules in full": {"modules_to_save": "embed_tokens,lm_head"},
    "high rank, small steps": {"lora_rank": 64, "per_device_train_batch_size": 2},
    "several micro-batches": {"per_device_train_batch_size": 12, "micro_batch_tokens": 512},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    config = LlamaConfig(
        vocab_size=16_000, num_key_value_heads=2, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, **LARGE
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tiny.tiny_sentencepiece(folder)
    return folder


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_run_takes_what_was_planned(name, base, inputs, tmp_path):
    """Never under; a micro-batch that is not full, as those of several are, takes less than the largest."""
    values = {"per_device_train_batch_size": 8, "max_steps": 2, "lora_dropout": 0.05, **CONFIGURATIONS[name]}
    options = inputs.options(tmp_path / "out", model_name_or_path=base, learning_rate=1e-4, **values)
    done = run(["yangtuo", "train", *options])
    assert done.code == 0, done.said
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    planned = record["memory_plan"]
    peak = max(entry["peak_memory_bytes"] for entry in log_of(tmp_path / "out"))
    assert not planned["machine"]["has_thread_cache"]
    most = 1.08 if name == "several micro-batches" else 1.06
    assert peak <= planned["total"] <= most * peak, (planned["total"] / peak, planned["parts"])
    assert planned["fits"]
    assert "memory: the steps took at most" in done.said


def check(base, inputs, tmp_path, *words, expect=0, **changes):
    options = inputs.options(tmp_path / "out", model_name_or_path=base, tokenizer_name_or_path=inputs.base, **changes)
    drop = ("--learning_rate", "--save_strategy", "--max_steps")
    options = [w for i, w in enumerate(options) if w not in drop and options[max(i - 1, 0)] not in drop]
    done = yangtuo("check", *options, *words)
    assert done.code == expect, done.said
    return done


SHAPES = {
    "7B": {"vocab_size": 49_954, "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32},
    "70B": {
        **{"vocab_size": 128_256, "hidden_size": 8192, "intermediate_size": 28_672, "num_hidden_layers": 80},
        **{"num_attention_heads": 64, "num_key_value_heads": 8},
    },
}


def config_only(tmp_path, name):
    folder = tmp_path / name
    shape = {"num_attention_heads": 32, **SHAPES[name]}
    LlamaConfig(tie_word_embeddings=False, dtype="float16", **shape).save_pretrained(folder)
    return folder


def test_a_machine_that_is_not_here(inputs, tmp_path):
    done = check(config_only(tmp_path, "7B"), inputs, tmp_path, "--plan_for", "24GB", "--json")
    memory = json.loads(done.out)["memory"]
    assert memory["fits"]
    assert memory["machine"]["is_here"] is False
    assert memory["parts"]["frozen weights"] == 2 * (
        2 * 49_954 * 4096 + 32 * (4 * 4096**2 + 3 * 4096 * 11_008 + 2 * 4096) + 4096
    )
    assert memory["parts"]["LoRA"] == 4 * 8 * 32 * (8 * 4096 + 3 * (4096 + 11_008))


def test_what_does_not_fit_is_answered_with_what_does(inputs, tmp_path):
    words = ("--plan_for", "16GB")
    done = check(config_only(tmp_path, "7B"), inputs, tmp_path, *words, modules_to_save="embed_tokens,lm_head")
    assert "memory of the device, 15.20 GiB usable" in done.out
    assert "it will not fit: " in done.out
    assert '--modules_to_save "" (' in done.out
    assert "--load_in_4bit (" in done.out
    assert "█" in done.out


def test_70b_over_eight_cards_is_divided(inputs, tmp_path):
    done = check(config_only(tmp_path, "70B"), inputs, tmp_path, "--plan_for", "8x80GB", "--json")
    memory = json.loads(done.out)["memory"]
    assert not memory["fits"]
    assert memory["would_fit"][0]["options"] == "--fsdp full_shard"


@pytest.mark.parametrize("text", ["plenty", "0GB", "0x24GB"])
def test_an_amount_that_is_none(text, inputs, tmp_path):
    done = check(config_only(tmp_path, "7B"), inputs, tmp_path, "--plan_for", text, expect=2)
    assert f"--plan_for {text}: a card's memory, such as 24GB" in done.said


def test_without_a_base_there_is_no_plan(inputs, tmp_path):
    done = check(None, inputs, tmp_path, "--plan_for", "24GB", expect=2)
    assert "--plan_for 24GB: give --model_name_or_path" in done.said


def test_rows_are_reported_where_a_gpu_cannot_be_used(inputs, monkeypatch, capfd, tmp_path):
    from yangtuo.cli import main

    monkeypatch.setattr("yangtuo.model.processor.unusable_gpu", lambda: "this machine has a GPU that torch cannot use")
    words = ["--model_name_or_path", inputs.base, "--dataset_dir", inputs.data, "--data_cache_dir", tmp_path]
    assert main(["check", *map(str, words)]) == 0
    out = capfd.readouterr().out
    assert "24 of 24 rows" in out
    assert "this machine has a GPU that torch cannot use" in out
    assert main(["check", *map(str, words), "--plan_for", "24GB"]) == 0
    assert "memory of the device, 22.80 GiB usable" in capfd.readouterr().out
