"""Weights that lie in a base's files and are not in the model of its config.json."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from yangtuo.config.schema import ModelArguments
from yangtuo.errors import ModelError
from yangtuo.model.base import load
from yangtuo.model.processor import Precision
from yangtuo.model.weight_names import check_described

BIAS = "model.layers.1.self_attn.q_proj.bias"


@pytest.fixture
def base(tmp_path):
    return tiny.tiny_llama(tmp_path / "base")


def with_tensor(base, name):
    file = base / "model.safetensors"
    save_file({**load_file(file), name: torch.zeros(32)}, file, {"format": "pt"})


def with_config(base, **values):
    file = base / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


CHANGES = {
    "a bias": (lambda base: with_tensor(base, BIAS), f"1 weights are in the files and are not used .*: {BIAS}"),
    "layers": (
        lambda base: with_config(base, num_hidden_layers=1),
        "9 weights are .*model.layers.1.input",
    ),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_they_are_named_before_anything_is_loaded_and_when_it_is(base, kind):
    change, said = CHANGES[kind]
    check_described(base)
    change(base)
    with pytest.raises(ModelError, match=said):
        check_described(base)
    with pytest.raises(ModelError, match=said):
        load(base, Precision(torch.float32), ModelArguments())


def test_any_other_one_in_a_part_of_the_model_is_named_when_it_is_loaded(base):
    """Only transformers knows what a model has."""
    load(base, Precision(torch.float32), ModelArguments())
    with_tensor(base, "lm_head.summary.weight")
    with pytest.raises(ModelError, match=r"1 weights are in the files .*: lm_head.summary.weight"):
        load(base, Precision(torch.float32), ModelArguments())


@pytest.mark.parametrize("name", ["mtp.fc.weight", "v_head.summary.weight", "model.mtp.0.norm.weight"])
def test_one_beside_the_model_is_said(name, base, caplog):
    """Heads that predict further tokens; the value head of TRL's PPO."""
    with_tensor(base, name)
    load(base, Precision(torch.float32), ModelArguments())
    assert f"base: 1 tensors lie beside the model and are not trained with it: {name}" in caplog.text


def test_what_transformers_knows_as_needless_is_no_fault(base):
    """Folders of 2023 have a buffer of the rotary embedding in each layer."""
    with_tensor(base, "model.layers.0.self_attn.rotary_emb.inv_freq")
    check_described(base)
    load(base, Precision(torch.float32), ModelArguments())


@pytest.mark.parametrize("values", [{"attention_bias": True}, {"model_type": "qwen2"}])
def test_biases_that_are_described_are_no_fault(base, values):
    with_tensor(base, BIAS)
    with_config(base, **values)
    check_described(base)


def test_layers_that_predict_further_tokens_are_known(base):
    with_config(base, num_hidden_layers=1, num_nextn_predict_layers=1)
    check_described(base)
