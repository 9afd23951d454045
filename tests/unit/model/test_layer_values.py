import pytest
from transformers import AutoConfig

from yangtuo.engine.memory import ModelShape
from yangtuo.model.layer_values import value_of, values_of_layers

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}


@pytest.mark.parametrize(
    ("kind", "more", "name", "one", "of_layers"),
    [
        ("llama", {}, "intermediate_size", 96, [96, 96, 96]),
        ("llama", {}, "no_such_field", None, [None, None, None]),
        ("gemma3n_text", {"intermediate_size": [32, 64, 96]}, "intermediate_size", [32, 64, 96], [32, 64, 96]),
        ("gemma4_text", {"head_dim": 16}, "head_dim", 16, [16, 16, 512]),
    ],
)
def test_a_field_may_be_one_value_or_one_a_layer(kind, more, name, one, of_layers):
    config = AutoConfig.for_model(kind, **{**SIZES, **more})
    assert value_of(config, name) == one
    assert values_of_layers(config, name) == of_layers


def test_memory_is_estimated_by_the_largest_mlp():
    config = AutoConfig.for_model("gemma3n_text", **{**SIZES, "intermediate_size": [32, 64, 96]})
    assert ModelShape.of(config, 4).intermediate == 96
