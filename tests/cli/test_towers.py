"""Bases that are published as classes of several towers: trained on text, loaded by both classes, merged, asked."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from tests import tiny
from tests.command import log_of
from yangtuo.model.architecture import published

pytestmark = pytest.mark.filterwarnings(
    "ignore"
)  # of kernels that are not installed, of PEFT on the other class's keys
TEXT = {
    **{"vocab_size": 500, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 1024},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
HYBRID = {
    **{"layer_types": ["linear_attention", "full_attention"], "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 4},
}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
QWEN = {
    **{"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32, "patch_size": 4},
    **{"spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 16},
}
CLIP = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
CLIP |= {"image_size": 28, "patch_size": 14}
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}}
KINDS = {  # type of the text, its values, values of the tower, head and embedding one
    "qwen3_5": ("qwen3_5_text", HYBRID, QWEN, True),
    "qwen3_5_moe": ("qwen3_5_moe_text", {**HYBRID, **EXPERTS}, QWEN, False),
    "qwen2_5_vl": ("qwen2_5_vl_text", MROPE, {**QWEN, "fullatt_block_indexes": [0]}, False),
    "gemma3": ("gemma3_text", {"sliding_window": 24}, CLIP, True),
    "mistral3": ("mistral", {}, {**CLIP, "head_dim": 8}, False),
    "llava": ("llama", {}, CLIP, False),
}
TWICE = ("qwen3_5", "qwen3_5_moe")
IDS = torch.arange(3, 60)[None]


def base_of(folder, kind):
    of_text, values, tower, tie = KINDS[kind]
    text = {**TEXT, **values, "model_type": of_text, "tie_word_embeddings": tie}
    config = AutoConfig.for_model(kind, text_config=text, vision_config=tower, tie_word_embeddings=tie)
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tiny.tiny_json_tokenizer(folder)
    return folder


def whole(folder):
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@pytest.mark.parametrize("kind", KINDS)
def test_text_is_trained_and_merged_with_the_tower_as_it_was(kind, train, run, tmp_path):
    base = base_of(tmp_path / "base", kind)
    train(model_name_or_path=base)
    losses = [entry["loss"] for entry in log_of(tmp_path / "out")]
    assert losses[-1] < losses[0]
    adapter, words = tmp_path / "out" / "sft_lora_model", ["--model_name_or_path", base]
    expected = logits(PeftModel.from_pretrained(whole(base), adapter))
    assert (expected - logits(whole(base))).abs().max() > 1e-3  # its names are those of the published class
    keys = load_file(adapter / "adapter_model.safetensors").keys()
    named = {".language_model." in key for key in keys}
    assert named == ({True, False} if kind in TWICE else {True})
    if kind in TWICE:  # and of the class that transformers has for text alone
        of_text = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        torch.testing.assert_close(logits(PeftModel.from_pretrained(of_text, adapter)), expected, atol=1e-5, rtol=1e-5)

    run("merge", *words, "--peft_path", adapter, "--output_dir", tmp_path / "merged")
    torch.testing.assert_close(logits(whole(tmp_path / "merged")), expected, atol=2e-4, rtol=1e-4)
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "merged"))
    assert before.keys() == after.keys()
    towers = [
        name for name in before if not name.startswith(("model.language_model", "language_model", "model.layers"))
    ]
    towers = [name for name in towers if "lm_head" not in name and "embed_tokens" not in name]
    assert any("vision" in name or "visual" in name for name in towers)
    assert all(torch.equal(before[name], after[name]) for name in towers)
    said = run("chat", *words, "--peft_path", adapter, "--ask", "你好", "--max_new_tokens", 3, "--json")
    assert json.loads(said.splitlines()[0])


def test_export_continue_and_resume_know_both_names(train, run, tmp_path):
    base = base_of(tmp_path / "base", "qwen3_5")
    train(tmp_path / "a", model_name_or_path=base, save_strategy="steps", save_steps=2)
    adapter = tmp_path / "a" / "sft_lora_model"
    train(tmp_path / "b", model_name_or_path=base, peft_path=adapter)
    one, other = log_of(tmp_path / "a"), log_of(tmp_path / "b")
    assert other[0]["loss"] < one[0]["loss"]
    words = ["--model_name_or_path", base, "--peft_path", tmp_path / "b" / "sft_lora_model"]
    run("export", *words, "--pure_lora", "--output_dir", tmp_path / "pure")
    plain = PeftModel.from_pretrained(whole(tmp_path / "pure" / "base"), tmp_path / "pure" / "adapter")
    expected = logits(PeftModel.from_pretrained(whole(base), tmp_path / "b" / "sft_lora_model"))
    torch.testing.assert_close(logits(plain), expected, atol=1e-5, rtol=1e-5)


def test_a_published_class_that_cannot_be_made_is_told(tmp_path, monkeypatch, caplog):
    config = AutoConfig.from_pretrained(base_of(tmp_path, "qwen3_5"))
    assert published(config) is not None

    def refuse(config, **how):
        raise ImportError("timm is not installed")

    monkeypatch.setattr(AutoModelForImageTextToText, "from_config", refuse)
    assert published(config) is None
    assert "its published class, for text and more, cannot be made here (timm is not installed)" in caplog.text


def test_an_adapter_of_the_published_class_is_taken(train, run, tmp_path):
    """As other programs write it, with the names of that class alone."""
    from peft import LoraConfig, get_peft_model

    base = base_of(tmp_path / "base", "qwen3_5")
    theirs = get_peft_model(whole(base), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.2)
    theirs.save_pretrained(tmp_path / "theirs")
    words = ["--model_name_or_path", base, "--peft_path", tmp_path / "theirs"]
    run("merge", *words, "--output_dir", tmp_path / "merged")
    torch.testing.assert_close(logits(whole(tmp_path / "merged")), logits(theirs), atol=2e-4, rtol=1e-4)
    train(model_name_or_path=base, peft_path=tmp_path / "theirs")
