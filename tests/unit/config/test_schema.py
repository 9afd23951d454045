"""The tables of options are whole: what is missing from them would be ignored in silence."""

from dataclasses import fields

import pytest
from transformers import TrainingArguments

from yangtuo.config.old_options import GONE, RENAMED, WITHOUT_EFFECT
from yangtuo.config.option_field import option
from yangtuo.config.schema import OUR_GROUPS, Decides
from yangtuo.config.trainer_options import TRAINING_ARGUMENTS, ArgHandling, ArgRule

OURS = {f.name: f for group in OUR_GROUPS for f in fields(group)}
THEIRS = {f.name for f in fields(TrainingArguments)}


def test_every_field_of_training_arguments_has_a_row_and_no_row_is_left_over():
    assert {f.name for f in fields(TrainingArguments) if f.init} == TRAINING_ARGUMENTS.keys()


@pytest.mark.parametrize("handling", [ArgHandling.OURS, ArgHandling.FIXED, ArgHandling.REFUSED])
def test_what_is_not_passed_on_says_why(handling):
    rows = {name: row for name, row in TRAINING_ARGUMENTS.items() if row.handling is handling}
    assert rows
    assert [name for name, row in rows.items() if len(row.reason.split()) < 2] == []


def test_what_is_passed_on_needs_no_reason():
    assert [n for n, row in TRAINING_ARGUMENTS.items() if row.handling is ArgHandling.PASSED and row.reason] == []


def test_our_own_options():
    """A new option is a decision: it is listed here."""
    assert list(OURS) == [
        *("model_name_or_path", "tokenizer_name_or_path", "torch_dtype", "load_in_4bit", "load_in_8bit"),
        *("attn_implementation", "hub", "cache_dir"),
        *("model_revision", "trust_remote_code"),
        *("dataset_dir", "train_file", "include_subfolders", "validation_file", "validation_split_percentage"),
        *("data_format", "columns", "allow_empty_answers", "bad_rows", "max_rows"),
        *("template", "system_prompt"),
        *("chat_template_kwargs", "history", "train_turns", "parse_special_tokens"),
        *("deduplicate", "mix", "max_seq_length", "truncation"),
        *("data_cache_dir", "overwrite_cache", "preprocessing_num_workers", "data_order"),
        *("lora_rank", "lora_alpha", "lora_dropout", "trainable", "layers_to_transform", "rank_pattern"),
        *("alpha_pattern", "use_rslora", "use_dora", "init_lora_weights", "loraplus_lr_ratio", "modules_to_save"),
        *("train_new_tokens_only", "peft_path", "new_adapter", "modules_to_save_policy", "force_base"),
        "allow_partial_adapter",
        *("loss_reduction", "micro_batch_tokens", "save_minutes", "watchdog_minutes"),
        *("early_stopping_patience", "early_stopping_threshold", "extend"),
        *("sample_prompts", "sample_tokens"),
        "overwrite_output_dir",
        "force_learning_rate",
        "report",
    ]


@pytest.mark.parametrize("name", OURS)
def test_every_option_of_ours_has_help(name):
    text = OURS[name].metadata["help"]
    assert text.endswith(".")
    assert len(text.split()) > 3


@pytest.mark.parametrize("name", OURS)
def test_every_option_of_ours_says_what_it_decides(name):
    assert isinstance(OURS[name].metadata["decides"], Decides)


def test_every_option_of_transformers_says_what_it_decides():
    assert [name for name, row in TRAINING_ARGUMENTS.items() if not isinstance(row.decides, Decides)] == []


def test_an_option_cannot_be_made_without_saying_it():
    with pytest.raises(TypeError):
        option(1, "What it is.")
    with pytest.raises(TypeError):
        ArgRule(ArgHandling.PASSED, "")


def test_no_name_means_two_things():
    tables = [set(OURS), THEIRS, set(RENAMED), set(WITHOUT_EFFECT), set(GONE)]
    assert len(set().union(*tables)) == sum(map(len, tables))


@pytest.mark.parametrize(("old", "today"), RENAMED.items())
def test_a_renamed_option_exists_and_is_not_refused(old, today):
    assert today in OURS or TRAINING_ARGUMENTS[today].handling is not ArgHandling.REFUSED


@pytest.mark.parametrize("table", [WITHOUT_EFFECT, GONE])
def test_old_options_say_why(table):
    assert [name for name, reason in table.items() if len(reason.split()) < 3] == []
