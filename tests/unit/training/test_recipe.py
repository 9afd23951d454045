"""Which options are part of what a run means, each as it says itself."""

from dataclasses import replace

import pytest

from yangtuo.config.options import OPTIONS, TRAINING_OPTIONS
from yangtuo.config.parser import build_parser, parse
from yangtuo.config.schema import Decides
from yangtuo.training.recipe import _told, deciding_values

EVALUATES, TAKES_BEST = {"eval_strategy": "steps"}, {"eval_strategy": "steps", "load_best_model_at_end": True}


def settings_of(**training):
    settings, _ = parse([], build_parser("yangtuo train"))
    return replace(settings, training={**settings.training, **training})


def changed(settings, name):
    """The same with another value of one option."""
    if name in TRAINING_OPTIONS:
        return replace(settings, training={**settings.training, name: "another"})
    for group in ("model", "data", "lora", "run"):
        if name in vars(getattr(settings, group)):
            return replace(settings, **{group: replace(getattr(settings, group), **{name: "another"})})
    raise AssertionError(name)


def is_in_it(settings, name):
    """Whether another value makes another run."""
    return deciding_values(settings) != deciding_values(changed(settings, name))


@pytest.mark.parametrize("name", sorted(OPTIONS.keys() - {"peft_path", "new_adapter"}))  # which switch others off
def test_the_value_of_an_option_is_part_of_the_recipe_as_it_says(name):
    decides = OPTIONS[name].decides
    switches = ("eval_strategy", "do_eval", "load_best_model_at_end")
    assert is_in_it(settings_of(), name) == (decides is Decides.RESULT or name in ("eval_strategy", "do_eval"))
    if name not in switches:
        assert is_in_it(settings_of(**EVALUATES), name) == (decides in (Decides.RESULT, Decides.EVALUATION))
        assert is_in_it(settings_of(**TAKES_BEST), name) == (decides not in (Decides.CONTENT, Decides.NOTHING))


def test_of_a_continued_adapter_only_what_it_leaves_open_counts():
    settings = settings_of()
    continued = replace(settings, lora=replace(settings.lora, peft_path="adapter"))
    lora = [name for name in vars(settings.lora) if OPTIONS[name].decides is Decides.RESULT]
    assert {name for name in lora if is_in_it(continued, name)} >= {"lora_dropout", "loraplus_lr_ratio"}
    assert not is_in_it(continued, "lora_rank")
    on_top = replace(settings, lora=replace(settings.lora, peft_path="adapter", new_adapter=True))
    assert is_in_it(on_top, "lora_rank")


def test_of_a_deepspeed_file_what_the_options_say_does_not_count():
    part = {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "bias_correction": False}}
    assert _told(part) == {"type": "AdamW", "params": {"bias_correction": False}}
