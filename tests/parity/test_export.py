"""Adapters in the format of 2023 on the nano model of the goldens: exported, whole and divided, they stay the same."""

import json
import shutil

import pytest
import torch
from gguf import GGUFReader
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.command import yangtuo
from yangtuo.cli import main

from .test_merge import logits


def as_today(adapter):
    """Without the keys that today's PEFT warns of."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    for key in ("enable_lora", "merge_weights"):
        config.pop(key)
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    return adapter


@pytest.fixture(params=["lora", "mts"])
def adapter(request, nano, alpaca_tokenizer, tmp_path):
    folder = shutil.copytree(nano / f"nano_adapter_{request.param}", tmp_path / request.param)
    for file in alpaca_tokenizer.iterdir():
        shutil.copy(file, folder)
    return folder


def export(nano, adapter, out, *more):
    words = ["--model_name_or_path", nano / "nano_llama", "--peft_path", adapter, "--output_dir", out, *more]
    return main(["export", *map(str, words)])


def live(nano, adapter):
    model = AutoModelForCausalLM.from_pretrained(nano / "nano_llama", dtype=torch.float32)
    return logits(PeftModel.from_pretrained(model, as_today(adapter)))


def test_whole(nano, adapter, tmp_path, capfd):
    out = tmp_path / "exported"
    assert export(nano, adapter, out, "--gguf", "f16") == 0
    said = capfd.readouterr().err
    assert "unverified" in said
    assert "template: alpaca_zh (auto: the tokenizer has no chat template and no tokens of one)" in said
    assert "### Response: " in (out / "chat_template.jinja").read_text(encoding="utf-8").replace("\\n", "\n")
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    torch.testing.assert_close(logits(model), live(nano, adapter), atol=1e-5, rtol=1e-5)
    tokens = next(
        field for name, field in GGUFReader(out / "model-f16.gguf").fields.items() if name.endswith("ggml.tokens")
    )
    assert len(tokens.data) == 49_954


def test_divided(nano, adapter, tmp_path):
    out = tmp_path / "pure"
    assert export(nano, adapter, out, "--pure_lora") == 0
    assert all(".lora_" in key for key in load_file(out / "adapter" / "adapter_model.safetensors"))
    model = AutoModelForCausalLM.from_pretrained(out / "base", dtype=torch.float32)
    together = logits(PeftModel.from_pretrained(model, out / "adapter"))
    torch.testing.assert_close(together, live(nano, adapter), atol=1e-5, rtol=1e-5)


def test_continued_then_exported(nano, adapter, alpaca_tokenizer, tmp_path):
    """What was unverified is known from then on."""
    (tmp_path / "data").mkdir()
    rows = [{"instruction": f"第{i}题", "input": "", "output": f"答案是{i}。"} for i in range(6)]
    (tmp_path / "data" / "a.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    done = yangtuo(
        *(
            "train",
            "--model_name_or_path",
            nano / "nano_llama",
            "--peft_path",
            adapter,
            "--dataset_dir",
            tmp_path / "data",
        ),
        *("--output_dir", tmp_path / "out", "--max_steps", 2, "--save_strategy", "no", "--learning_rate", 1e-3),
    )
    assert done.code == 0, done.said
    assert "unverified" in done.said
    folder = tmp_path / "out" / "sft_lora_model"
    done = yangtuo(
        *("export", "--model_name_or_path", nano / "nano_llama", "--peft_path", folder, "--output_dir", tmp_path / "x")
    )
    assert done.code == 0, done.said
    assert "unverified" not in done.said
    assert f"template: alpaca_zh (auto: {folder} was trained with it)" in done.said
