"""Models without weights: with the names and buffers of a whole one, and nothing is drawn for them."""

import pytest
import torch
from torch.nn import init
from transformers import AutoConfig, AutoModelForCausalLM

from yangtuo.model.architecture import empty_model, modules_of

SIZES = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.fixture(params=[True, False])
def config(request):
    return AutoConfig.for_model("llama", **SIZES, tie_word_embeddings=request.param)


def test_it_has_the_names_shapes_buffers_and_ties_of_a_whole_one(config):
    empty, whole = empty_model(config), AutoModelForCausalLM.from_config(config)
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in (empty, whole)]
    assert shapes[0] == shapes[1]
    assert all(weight.is_meta for weight in empty.parameters())
    buffers = [dict(model.named_buffers()) for model in (empty, whole)]
    assert buffers[0].keys() == buffers[1].keys() != set()
    assert all(torch.equal(buffers[0][name], value) for name, value in buffers[1].items())
    assert empty.all_tied_weights_keys == whole.all_tied_weights_keys
    assert bool(empty.all_tied_weights_keys) == config.tie_word_embeddings
    assert not empty.training


def test_nothing_is_drawn(config, monkeypatch):
    drawn = []
    for name in ("normal_", "uniform_"):
        monkeypatch.setattr(torch.Tensor, name, lambda self, *_, **__: drawn.append(self) or self)
    empty_model(config)
    modules_of(config)
    assert drawn == []
    init.normal_(torch.empty(2))  # what would be seen
    assert len(drawn) == 1
