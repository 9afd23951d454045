"""Adapters in the format of 2023 on the nano model of the goldens: merged, they give PEFT's logits."""

import argparse
import json
import shutil

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from yangtuo.cli import merge

IDS = torch.tensor([[1, 13866, 338, 385, 15278, 49953, 40000, 32000, 2]])


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize("names", [["lora"], ["mts"], ["mts", "lora"]], ids="+".join)
def test_the_adapters_of_2023_merge_as_peft_merges_them(nano, alpaca_tokenizer, tmp_path, names):
    base = nano / "nano_llama"
    adapters = [shutil.copytree(nano / f"nano_adapter_{name}", tmp_path / name) for name in names]
    for file in alpaca_tokenizer.iterdir():
        shutil.copy(file, adapters[-1])
    parser = argparse.ArgumentParser()
    merge.add_options(parser)
    out = tmp_path / "merged"
    words = ["--model_name_or_path", str(base), "--peft_path", ",".join(map(str, adapters)), "--output_dir", str(out)]
    merge.run(parser.parse_args(words))

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for adapter in adapters:
        config = json.loads((adapter / "adapter_config.json").read_text())
        for key in ("enable_lora", "merge_weights"):  # this PEFT warns of them
            config.pop(key)
        (adapter / "adapter_config.json").write_text(json.dumps(config))
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    merged = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    torch.testing.assert_close(logits(merged), logits(model), atol=1e-5, rtol=1e-5)
    assert (out / "tokenizer.model").read_bytes() == (alpaca_tokenizer / "tokenizer.model").read_bytes()
    assert json.loads((out / "merge.json").read_text())["proofs"]["logits"]["num_prompts"] == 5
