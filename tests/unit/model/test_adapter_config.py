"""adapter_config.json of others: what is wrong with it is said in one go."""

import json

import pytest
from peft import LoraConfig

from yangtuo.errors import AdapterError
from yangtuo.model.adapter_config import read_config


@pytest.fixture
def written(tmp_path):
    def write(**values):
        LoraConfig(r=4, target_modules=["q_proj"]).save_pretrained(str(tmp_path))
        file = tmp_path / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"r": "4"}, 'values of the wrong kind: r is "4", expected a whole number'),
        ({"r": None}, "r is null, expected a whole number"),
        ({"r": True}, "r is true, expected a whole number"),
        ({"lora_alpha": "16"}, 'lora_alpha is "16", expected a number'),
        ({"lora_dropout": [0]}, "lora_dropout is [0], expected a number"),
        ({"use_dora": "yes"}, 'use_dora is "yes", expected true or false'),
        ({"target_modules": 7}, "target_modules is 7, expected text or a list"),
        ({"target_modules": ["q_proj", 7]}, "target_modules holds 7, expected text"),
        ({"modules_to_save": "lm_head"}, 'modules_to_save is "lm_head", expected a list'),
        ({"rank_pattern": {"q_proj": "8"}}, 'rank_pattern holds "8", expected a whole number'),
        ({"layers_to_transform": "1"}, 'layers_to_transform is "1", expected a whole number or a list'),
        ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}, "belongs to a base that it changed"),
        ({"init_lora_weights": "pissa_niter_4"}, "belongs to a base that it changed at its start"),
        (
            {"init_lora_weights": "eva", "use_dora": True, "layer_replication": 3, "layers_pattern": ["x"]},
            "PEFT cannot use it",
        ),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; only 'LORA' is supported"),
    ],
)
def test_what_cannot_be_used_is_one_line(written, values, said):
    with pytest.raises(AdapterError) as caught:
        read_config(written(**values))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_of_it_at_once(written):
    with pytest.raises(AdapterError) as caught:
        read_config(written(r="4", lora_alpha="8"))
    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == [
        'r is "4", expected a whole number',
        'lora_alpha is "8", expected a number',
    ]


@pytest.mark.parametrize(
    "values",
    [{}, {"lora_alpha": 16.5}, {"target_modules": r".*q_proj"}, {"rank_pattern": None, "use_rslora": None}],
)
def test_what_peft_writes_is_read(written, values):
    assert read_config(written(**values)).r == 4
