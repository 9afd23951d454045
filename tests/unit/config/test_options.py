"""The table of transformers' options is true, and options are spelled as transformers' own parser spells them."""

import argparse
import json
from dataclasses import dataclass, field, fields, make_dataclass
from enum import StrEnum
from typing import Optional

import pytest
from transformers import HfArgumentParser, TrainingArguments

from tests.training_fields import FILE, kind_of, rows
from yangtuo.config.options import TRAINING_OPTIONS, add, options_of, training_default
from yangtuo.config.parser import build_parser, parse
from yangtuo.config.schema import OUR_GROUPS
from yangtuo.config.trainer_options import TRAINING_ARGUMENTS, ArgHandling
from yangtuo.errors import UsageError

# ---- the table


def differences(dataclass=TrainingArguments):
    """Fields that the file lacks, has too many of, or has otherwise; as text, since 0 is not 0.0 here."""
    found, true = json.loads(FILE.read_text(encoding="utf-8")), rows(dataclass)
    names = [name for name in {**found, **true} if json.dumps(found.get(name)) != json.dumps(true.get(name))]
    return {name: {"in the file": found.get(name), "in transformers": true.get(name)} for name in names}


def test_the_table_is_what_transformers_has():
    assert differences() == {}, "python -m tests.training_fields writes the table anew; look at what has changed"
    assert list(TRAINING_OPTIONS) == [f.name for f in fields(TrainingArguments)]


@pytest.mark.parametrize(
    ("name", "hint", "default"),
    [
        ("a_new_one", int, 3),
        ("weight_decay", float, 0),  # an int, where the table has 0.0
        ("seed", float, 42),
        ("eval_delay", int, 0),
        ("tf32", str | None, None),
        ("label_names", str | None, None),
        ("fsdp", str | None, field(default=None)),  # no longer bare
        ("eval_strategy", str, "no"),  # any word
    ],
)
def test_a_changed_field_is_found(name, hint, default):
    twin = make_dataclass("Twin", [(name, hint, default)], bases=(TrainingArguments,))
    assert list(differences(twin)) == [name]


def test_a_field_that_no_command_line_can_spell_is_refused():
    """Such values are read as words, which is right only because none is passed on."""
    plain = [a for a in HfArgumentParser(TrainingArguments)._actions if a.type and not a.choices]
    classes = {a.dest for a in plain if a.type is not str and kind_of(a.type) == "str"}
    assert classes == {"liger_kernel_config", "parallelism_config", "debug"}
    assert TRAINING_OPTIONS["debug"].choices  # transformers takes its members as words too
    for name in classes - {"debug"}:
        assert TRAINING_ARGUMENTS[name].handling is ArgHandling.REFUSED


def test_a_default_is_the_callers_own():
    training_default("include_for_metrics").append("loss")
    assert training_default("include_for_metrics") == []


# ---- the same parser as transformers would build


def spelled(parser):
    """Each option as it is written, and what its values are."""
    return {
        tuple(action.option_strings): (
            type(action).__name__,
            action.dest,
            action.nargs,
            action.const,
            action.default,
            action.choices and list(action.choices),
        )
        for action in parser._actions
    }


class TheirParser(HfArgumentParser):
    """transformers' own parser; it hands everything that a field says to argparse, which knows no `decides`."""

    def add_argument(self, *words, **options):
        options.pop("decides", None)
        return super().add_argument(*words, **options)


def test_options_are_spelled_as_transformers_spells_them():
    theirs = TheirParser((*OUR_GROUPS, TrainingArguments))
    for action in theirs._actions:
        if action.type and kind_of(action.type) == "bool":
            action.nargs, action.const = "?", True  # what the 2023 script's bare flags need
        if action.dest == "debug":
            action.default, action.choices = "", TRAINING_OPTIONS["debug"].choices
    ours = argparse.ArgumentParser()
    for group in OUR_GROUPS:
        for option in options_of(group):
            add(ours, option)
    for option in TRAINING_OPTIONS.values():
        add(ours, option)
    assert spelled(ours) == spelled(theirs)
    for mine, other in zip(ours._actions, theirs._actions, strict=True):
        assert mine.type is other.type or kind_of(other.type) in ("bool", "str"), mine.dest


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Every:
    word: str = "w"
    maybe_word: str | None = None
    count: int = 1
    maybe_count: Optional[int] = None  # noqa: UP045  # the older way to say it
    part: float = 0.5
    maybe_part: float | None = None
    off: bool = False
    on: bool = True
    maybe_on: bool | None = None
    colour: Colour = Colour.RED
    maybe_colour: Colour | None = field(default=None, metadata={"help": "A colour.", "aliases": ["--tint"]})


@pytest.fixture
def every():
    parser = argparse.ArgumentParser(exit_on_error=False)
    for option in options_of(Every):
        add(parser, option)
    return parser


def test_every_kind_of_option_is_as_transformers_has_it(every):
    theirs = spelled(HfArgumentParser(Every))
    bare = ("--maybe_on", "--maybe-on")
    assert theirs[bare][2:4] == (None, None)
    theirs[bare] = (*theirs[bare][:2], "?", True, *theirs[bare][4:])
    assert spelled(every) == theirs


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--word", "1"], "word", "1"),
        (["--maybe_word", "1"], "maybe_word", "1"),
        (["--maybe-count", "1"], "maybe_count", 1),
        (["--maybe_part", "1"], "maybe_part", 1.0),
        (["--off"], "off", True),
        (["--no_on"], "on", False),
        (["--on=n"], "on", False),
        (["--maybe_on"], "maybe_on", True),
        (["--maybe_on", "0"], "maybe_on", False),
        (["--maybe_colour", "blue"], "maybe_colour", "blue"),
        (["--tint", "red"], "maybe_colour", "red"),
    ],
)
def test_every_kind_of_option_is_read(every, words, name, value):
    found = getattr(every.parse_args(words), name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("words", [["--off", "maybe"], ["--colour", "green"], ["--count", "1.5"], ["--part", "x"]])
def test_a_value_of_the_wrong_kind(every, words):
    with pytest.raises(argparse.ArgumentError):
        every.parse_args(words)


@pytest.mark.parametrize("hint", [list[str], dict, str | int, int | str | None, complex])
def test_a_field_of_another_type_is_an_error_of_ours(hint):
    group = make_dataclass("Group", [("odd", hint, None)])
    with pytest.raises(TypeError, match=r"^Group\.odd: no option can have the type "):
        list(options_of(group))


# ---- values of transformers' options


def training_of(*words):
    return parse(words, build_parser("yangtuo check"))[0].training


def test_switches_that_are_on_by_default():
    assert training_of("--no_skip_memory_metrics")["skip_memory_metrics"] is False
    assert training_of("--no-log-on-each-node")["log_on_each_node"] is False


def test_an_option_of_several_words_and_one_that_may_stand_bare():
    assert training_of("--debug", "underflow_overflow", "tpu_metrics_debug")["debug"] == [
        "underflow_overflow",
        "tpu_metrics_debug",
    ]
    assert training_of("--fsdp")["fsdp"] is True


def test_a_switch_says_what_it_takes():
    with pytest.raises(UsageError) as caught:
        training_of("--fp16", "maybe")
    assert str(caught.value) == (
        "yangtuo check: argument --fp16: 'maybe' is neither true nor false (yes and no, t and f, y and n, 1 and 0 too)"
    )


def test_what_is_refused_is_refused_whatever_its_value():
    with pytest.raises(UsageError, match=r"--parallelism_config x: not supported: rows are dealt"):
        training_of("--parallelism_config", "x")


# ---- help

SHORT = "Every other option of yangtuo train is taken too; yangtuo train --help lists them."


def own(parser):
    parser.add_argument("--out", help="File to write.")


def help_of(**how):
    return " ".join(build_parser("yangtuo check", own, **how).format_help().split())


def test_the_long_help_has_the_words_of_transformers():
    text = help_of()
    assert TrainingArguments.__dataclass_fields__["learning_rate"].metadata["help"] in text
    assert "--evaluation_strategy [EVALUATION_STRATEGY] now --eval_strategy" in text
    assert "File to write." in text
    assert SHORT not in text


def test_the_short_help_has_our_options_and_the_verbs_own():
    text = help_of(explains_training=False)
    for group in OUR_GROUPS:
        for f in fields(group):
            assert f"--{f.name} " in text
    assert text.endswith(f"--out OUT File to write. (default: None) {SHORT}")
    assert "--learning_rate" not in text
    assert "--evaluation_strategy" not in text
    assert "names of earlier versions" not in text


def test_what_the_short_help_leaves_out_is_taken():
    parser = build_parser("yangtuo check", own, explains_training=False)
    settings, options = parse(["--learning_rate", "1e-3", "--evaluation_strategy", "steps", "--out", "x"], parser)
    evaluates = {"eval_strategy": "steps", "eval_steps": 500, "do_train": True}
    assert settings.training == {"learning_rate": 1e-3, **evaluates}
    assert options.out == "x"
