"""What is written for other programs, and what this one's own answers go by."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests import chat_templates
from tests.dialogues import controlled
from yangtuo.data.encoding import end_id
from yangtuo.data.templates import ALPACA_ZH, CHATML
from yangtuo.errors import ModelError
from yangtuo.model import generation_config

TOKENIZERS = {
    "bos": controlled(*chat_templates.CONTROLS),
    "no bos": controlled(*chat_templates.CONTROLS, bos=False, eos="</s>"),
}


EXISTING = {
    "none": (None, {}),
    "plain": ({"max_length": 4096, "transformers_version": "4.30.0"}, {"max_length": 4096}),
    "llama 2": (
        {"temperature": 0.9, "top_p": 0.6, "eos_token_id": 9, "pad_token_id": 0},
        {"temperature": 0.9, "top_p": 0.6, "do_sample": True, "pad_token_id": 0},
    ),
    "qwen": (
        {"do_sample": True, "temperature": 0.7, "top_k": 20, "repetition_penalty": 1.05},
        {"do_sample": True, "temperature": 0.7, "top_k": 20, "repetition_penalty": 1.05},
    ),
    "greedy with a temperature": ({"do_sample": False, "temperature": 0.7, "top_k": 9}, {"do_sample": False}),
    "broken": (
        {"max_new_tokens": 0, "early_stopping": "often", "num_return_sequences": 3, "pad_token_id": -1, "streamer": 1},
        {},
    ),
    "beams": ({"length_penalty": 2.0, "num_beams": 4}, {"length_penalty": 2.0, "num_beams": 4}),
}


@pytest.mark.parametrize(("existing", "kept"), EXISTING.values(), ids=EXISTING)
def test_the_generation_config_keeps_what_transformers_takes(tmp_path, existing, kept):
    from transformers import GenerationConfig

    tokenizer = TOKENIZERS["bos"]
    made = generation_config.of_training(existing, tokenizer, ALPACA_ZH)
    version = {"transformers_version": "4.30.0"} if existing and "transformers_version" in existing else {}
    assert made == {**kept, **version, "bos_token_id": 1, "eos_token_id": 2}
    (tmp_path / "generation_config.json").write_text(json.dumps(made))
    config = GenerationConfig.from_pretrained(tmp_path)
    config.save_pretrained(tmp_path / "again")
    assert (config.eos_token_id, config.bos_token_id) == (2, 1)
    for key, value in kept.items():
        assert getattr(config, key) == value


def test_the_comparison_sees_a_config_that_transformers_cannot_save(tmp_path):
    from transformers import GenerationConfig

    (tmp_path / "generation_config.json").write_text(json.dumps(EXISTING["llama 2"][0]))
    config = GenerationConfig.from_pretrained(tmp_path)
    config.max_new_tokens = 7
    with pytest.raises(ValueError, match="do_sample"):
        config.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps(EXISTING["broken"][0]))
    with pytest.raises(ValueError, match="early_stopping"):
        GenerationConfig.from_pretrained(tmp_path)


def test_the_end_of_training_comes_first_and_the_tokenizers_own_stays():
    tokenizer = TOKENIZERS["no bos"]
    made = generation_config.of_training({"eos_token_id": [7, 8], "bos_token_id": 5}, tokenizer, CHATML)
    assert made == {"eos_token_id": [end_id(tokenizer, CHATML), 2], "bos_token_id": 5}
    own = replace(tokenizer, eos_id=end_id(tokenizer, CHATML), names={"pad_token": "</s>"})
    assert generation_config.of_training(None, own, CHATML) == {"eos_token_id": end_id(own, CHATML), "pad_token_id": 2}


CHOOSING = {
    "nothing": ({"eos_token_id": 2, "max_length": 4096}, {}, []),
    "values that change nothing": ({"do_sample": False, "repetition_penalty": 1.0, "num_beams": 1}, {}, []),
    "greedy, with values for drawing": ({"do_sample": False, "temperature": 0.7, "top_k": 9, "min_p": 0.1}, {}, []),
    "drawn, as transformers does by itself": ({"do_sample": True}, {"temperature": 1.0}, []),
    "llama 2": ({"temperature": 0.9, "top_p": 0.6}, {"temperature": 0.9, "top_p": 0.6}, []),
    "qwen": (
        {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05},
        {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05},
        [],
    ),
    "a penalty alone": ({"repetition_penalty": 1.1}, {"repetition_penalty": 1.1}, []),
    "what is not known": (
        {"do_sample": True, "min_p": 0.1, "num_beams": 4, "top_p": 1.0, "suppress_tokens": [3]},
        {"temperature": 1.0},
        ["min_p", "num_beams", "suppress_tokens"],
    ),
}


@pytest.mark.parametrize(("values", "found", "unknown"), CHOOSING.values(), ids=CHOOSING)
def test_answers_are_greedy_unless_the_folder_says_otherwise(values, found, unknown):
    assert generation_config.choosing(values, Path("folder")) == (found, unknown)


def test_values_that_cannot_be_meant_are_named(tmp_path):
    values = {"temperature": "hot", "top_p": 0, "top_k": 1.5, "repetition_penalty": True}
    with pytest.raises(ModelError) as caught:
        generation_config.choosing(values, Path("folder"))
    assert [line.split(";")[0] for line in str(caught.value).splitlines()] == [
        f"{Path('folder/generation_config.json')} (4 problems):",
        "  temperature is 'hot'",
        "  top_p is 0",
        "  top_k is 1.5",
        "  repetition_penalty is True",
    ]
    for text, told in (("{", "broken JSON"), ("[]", "expected an object of JSON")):
        (tmp_path / "generation_config.json").write_text(text)
        with pytest.raises(ModelError, match=told):
            generation_config.read(tmp_path)
