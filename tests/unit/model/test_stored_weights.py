"""Tensors of files as the model has them, and back: names, shapes and bits."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.core_model_loading import MergeModulelist

from tests import tiny
from yangtuo.errors import ModelError
from yangtuo.model.stored_weights import open_stored

SIZES = {
    **{"vocab_size": 100, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "head_dim": 8},
    **{"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0},
    **{"num_experts": 3, "num_local_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 8},
    **{"moe_num_experts": 3, "moe_k": 2, "moe_layer_start_index": 1, "moe_num_shared_experts": 1},
}
KINDS = ("llama", "qwen3_moe", "mixtral", "minimax_m2", "ernie4_5_moe", "granitemoe", "gpt_neox", "bloom", "gpt2")


def written(folder, kind):
    torch.manual_seed(0)
    usual = AutoConfig.for_model(kind)
    values = {name: value for name, value in SIZES.items() if hasattr(usual, name)}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **values), dtype=torch.float32)
    model.save_pretrained(folder)
    return model


def changed(folder, change):
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("kind", KINDS)
def test_each_tensor_is_the_one_that_transformers_loads_and_goes_back_bit_for_bit(kind, tmp_path):
    model = written(tmp_path, kind)
    stored, files = open_stored(tmp_path), load_file(tmp_path / "model.safetensors")
    expected = {name: value for name, value in model.state_dict().items() if name in stored.specs}
    assert not stored.missing
    assert not stored.unused
    for name, value in expected.items():
        assert torch.equal(stored.get(name), value)
        assert stored.specs[name].shape == value.shape
    back = {}
    for group in stored.groups:
        tensors = {name: stored.get(name) for name in group.targets}
        back |= group.taken_apart(tensors, stored.model) if group.targets else {}
    assert back.keys() == files.keys()
    assert all(torch.equal(back[name], files[name]) for name in files)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3_moe"])
def test_a_base_that_was_saved_without_its_head_has_other_names(kind, tmp_path):
    model = written(tmp_path / "whole", kind)
    AutoModel.from_pretrained(tmp_path / "whole").save_pretrained(tmp_path / "part")
    stored = open_stored(tmp_path / "part")
    prefix = f"{model.base_model_prefix}."
    assert not any(name.startswith(prefix) for name in stored.files.specs)
    inside = {name: value for name, value in model.state_dict().items() if name.startswith(prefix)}
    assert all(torch.equal(stored.get(name), value) for name, value in inside.items())
    assert stored.missing == ([] if model.config.tie_word_embeddings else ["lm_head.weight"])


def test_tensors_beside_the_model_are_told_from_those_inside(tmp_path):
    folder = tiny.tiny_llama(tmp_path)
    more = (
        "mtp.norm.weight",
        "model.mtp.0.weight",
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.2.norm.weight",
    )
    changed(folder, lambda tensors: tensors | {name: torch.ones(32) for name in more})
    assert open_stored(folder).unused == sorted(more[2:])
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_nextn_predict_layers": 1}))
    assert open_stored(folder).unused == [more[2]]


def test_experts_that_lack_one_are_named(tmp_path):
    written(tmp_path, "qwen3_moe")
    lost = "model.layers.0.mlp.experts.1.up_proj.weight"
    changed(tmp_path, lambda tensors: {name: value for name, value in tensors.items() if name != lost})
    with pytest.raises(ModelError, match=r"model.layers.0.mlp.experts.0.gate_proj.weight, .* cannot be put together"):
        open_stored(tmp_path)


def test_a_rule_without_an_opposite_is_named(tmp_path, monkeypatch):
    written(tmp_path, "qwen3_moe")
    stored = open_stored(tmp_path)
    group = next(group for group in stored.groups if group.rule)
    tensors = {name: stored.get(name) for name in group.targets}
    monkeypatch.setattr(
        MergeModulelist, "reverse_op", property(lambda self: (_ for _ in ()).throw(NotImplementedError))
    )
    with pytest.raises(ModelError, match=f"{group.targets[0]} cannot be put back as .*experts.0"):
        group.taken_apart(tensors, stored.model)
