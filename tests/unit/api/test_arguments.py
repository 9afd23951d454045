"""Keywords are what the command line's words are."""

from dataclasses import fields
from pathlib import Path

import pytest

from yangtuo.api.arguments import one_of, options_of, settings_of
from yangtuo.api.chat import ChatOptions
from yangtuo.api.evaluated_models import EvaluateOptions
from yangtuo.api.export import ExportOptions
from yangtuo.cli import module_of
from yangtuo.config.parser import build_parser, parse
from yangtuo.config.words import Parser
from yangtuo.errors import UsageError
from yangtuo.merging.options import MergeOptions
from yangtuo.training.validation_rows import OF_FILES, OF_ROWS


def test_keywords_give_the_settings_of_the_same_words():
    keywords = settings_of(
        "f",
        {
            "model_name_or_path": Path("a model"),
            "train_file": ["a.json", Path("b.json")],
            "trainable": ["q_proj", "v_proj"],
            "learning_rate": 1e-4,
            "lora_rank": 4,
            "do_eval": True,
            "bf16": False,
            "lr_scheduler_type": "cosine",
            "lr_scheduler_kwargs": {"num_cycles": 0.25},
            "peft_path": None,
        },
    )
    words = (
        "--train_file=a.json,b.json --trainable=q_proj,v_proj --learning_rate=1e-4 --lora_rank=4 --do_eval "
        "--bf16 false --lr_scheduler_type cosine"
    )
    given = ["--model_name_or_path", "a model", *words.split(), "--lr_scheduler_kwargs", '{"num_cycles": 0.25}']
    typed, _ = parse(given, build_parser("f"))
    assert (keywords.model, keywords.data, keywords.lora, keywords.run) == (
        *(typed.model, typed.data, typed.lora, typed.run),
    )
    assert keywords.training == typed.training
    assert set(keywords.origins) == set(typed.origins)
    assert set(keywords.origins.values()) == {"Python"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"lora_rnk": 8}, "--lora_rank"),
        ({"lora_rnk": 8, "max_seq_len": 8}, "2 problems"),
        ({"lora_rank": "eight"}, "eight"),
        ({"lora_rank": [1, 2]}, "lora_rank takes one value"),
        ({"warmup_ratio": 2}, "a ratio lies from 0 to below 1"),
        ({"config": "run.yaml"}, "yaml.safe_load"),
    ],
)
def test_what_the_command_line_refuses_is_refused(options, told):
    with pytest.raises(UsageError) as caught:
        settings_of("yangtuo.train", options)
    assert told in str(caught.value)


def test_values_of_a_dataclass_are_of_its_types():
    found = options_of(
        ChatOptions,
        "f",
        {"target": Path("x"), "temperature": 1, "use_cpu": True, "seed": None, "chat_template_kwargs": {"a": "好"}},
    )
    assert (found.target, found.temperature, found.use_cpu, found.seed) == ("x", 1.0, True, None)
    assert type(found.temperature) is float
    assert found.chat_template_kwargs == '{"a": "好"}'
    merged = options_of(
        MergeOptions, "f", {"model_name_or_path": "b", "peft_path": ["x", Path("y")], "output_dir": "o"}
    )
    assert merged.peft_path == "x,y"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"temprature": 1.0}, "did you mean 'temperature'?"),
        ({"max_new_tokens": "3"}, "expected a whole number"),
        ({"max_new_tokens": True}, "expected a whole number"),
        ({"use_cpu": 1}, "expected True or False"),
        ({"target": 3}, "expected text"),
        ({"temperature": "hot"}, "expected a number"),
    ],
)
def test_others_are_refused_with_the_option_and_the_value(options, told):
    with pytest.raises(UsageError) as caught:
        options_of(ChatOptions, "yangtuo.load", options)
    assert told in str(caught.value)
    assert "yangtuo.load" in str(caught.value)


def test_what_has_no_default_is_asked_for():
    with pytest.raises(UsageError, match="output_dir is missing"):
        options_of(MergeOptions, "f", {"model_name_or_path": "b", "peft_path": "x"})


def test_a_word_that_is_none_of_an_options_words():
    one_of("f", "dtype", "float16", ("float16", "bfloat16"))
    with pytest.raises(UsageError, match="did you mean 'float16'"):
        one_of("f", "dtype", "flaot16", ("float16", "bfloat16"))


OF_SCREEN = {"json", "ask", "multi_turn", "help"}  # what is printed, and what is asked at once


@pytest.mark.parametrize(
    ("verb", "kind", "more"),
    [
        ("chat", ChatOptions, ()),
        ("merge", MergeOptions, ("target",)),
        ("export", ExportOptions, ("target",)),
        ("eval", EvaluateOptions, (*OF_FILES, *OF_ROWS)),
    ],
)
def test_names_are_those_of_the_verbs(verb, kind, more):
    """Neither has an option that the other lacks, and their defaults are the same."""
    parser = Parser(verb)
    module_of(verb).add_options(parser)
    of_verb = {action.dest: action.default for action in parser._actions if action.dest not in OF_SCREEN}
    own = {field.name: field.default for field in fields(kind)} | dict.fromkeys(more)
    own.pop("rows", None)
    assert set(of_verb) == set(own)
    for name, default in of_verb.items():
        if default not in (None, "", [], False) and own[name] is not None:
            assert default == own[name], name
