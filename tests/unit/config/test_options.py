"""The table of transformers' options is true, and options are spelled as transformers' own parser spells them."""

import argparse
import json
from dataclasses import dataclass, field, fields, make_dataclass
from enum import StrEnum
from types import NoneType
from typing import ClassVar, Optional, get_args, get_type_hints

import pytest
from transformers import HfArgumentParser, TrainingArguments

from tests.training_fields import FILE, kind_of, rows
from yangtuo.config.options import OPTIONS, TRAINING_OPTIONS, add, options_of, training_default
from yangtuo.config.other_tools import OTHER, OTHER_NAMES
from yangtuo.config.parser import build_parser, parse
from yangtuo.config.schema import OUR_GROUPS, Decides
from yangtuo.config.settings import TrainerArguments
from yangtuo.config.trainer_options import GROUP_OF, SENTENCES, TRAINING_ARGUMENTS, ArgHandling
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


def field_of(default, **more):
    return field(default=default, metadata={"decides": Decides.NOTHING, **more})


@dataclass
class Every:
    group: ClassVar[str] = "every kind"
    word: str = field_of("w")
    maybe_word: str | None = field_of(None)
    count: int = field_of(1)
    maybe_count: Optional[int] = field_of(None)  # noqa: UP045  # the older way to say it
    part: float = field_of(0.5)
    maybe_part: float | None = field_of(None)
    off: bool = field_of(False)
    on: bool = field_of(True)
    maybe_on: bool | None = field_of(None)
    colour: Colour = field_of(Colour.RED)
    maybe_colour: Colour | None = field_of(None, help="A colour.", aliases=["--tint"])


@pytest.fixture
def every():
    parser = argparse.ArgumentParser(exit_on_error=False)
    for option in options_of(Every):
        add(parser, option)
    return parser


def test_every_kind_of_option_is_as_transformers_has_it(every):
    theirs = spelled(TheirParser(Every))
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


def test_a_switch_says_what_it_takes(sentences):
    with pytest.raises(UsageError) as caught:
        training_of("--fp16", "maybe")
    sentences(str(caught.value), "--fp")


def test_what_is_refused_is_refused_whatever_its_value():
    with pytest.raises(UsageError, match=r"--parallelism_config x: not supported: rows are dealt"):
        training_of("--parallelism_config", "x")


# ---- the table


def test_every_option_stands_in_the_table_once_with_what_it_decides():
    ours = [f.name for group in OUR_GROUPS for f in fields(group)]
    assert list(OPTIONS) == [*ours, *TRAINING_OPTIONS]
    assert [name for name, option in OPTIONS.items() if not isinstance(option.decides, Decides)] == []
    assert [name for name, option in OPTIONS.items() if not option.group] == []


def test_an_undecided_option_is_refused():
    twin = make_dataclass("Twin", [("new", int, field(default=1, metadata={"help": "New."}))])
    twin.group = "twins"
    with pytest.raises(TypeError, match="decides"):
        list(options_of(twin))


def test_every_name_of_a_group_is_an_option():
    assert GROUP_OF.keys() <= TRAINING_OPTIONS.keys()
    assert SENTENCES.keys() <= TRAINING_OPTIONS.keys()


def test_what_is_read_by_this_program_has_the_type_of_its_option():
    hints = get_type_hints(TrainerArguments)
    for name, hint in hints.items():
        kind, *none = [part for part in get_args(hint) or (hint,) if part is not NoneType]
        assert kind is OPTIONS[name].kind, name
        assert not none
        assert (NoneType in get_args(hint)) == (OPTIONS[name].default is None), name


# ---- help


def own(parser):
    parser.add_argument("--out", help="File to write.")


def test_the_long_help_has_a_sentence_on_each():
    text = " ".join(build_parser("yangtuo check", own).format_long_help().split())
    assert TrainingArguments.__dataclass_fields__["adam_beta1"].metadata["help"] in text
    assert "--evaluation_strategy [EVALUATION_STRATEGY] now --eval_strategy" in text
    assert "Not supported: it would change which rows form a step;" in text
    assert "File to write." in text


def test_the_short_help_has_every_option_that_does_something():
    text = build_parser("yangtuo check", own, "What it does.").format_help()
    for option in OPTIONS.values():
        is_offered = option.handling not in (ArgHandling.REFUSED, ArgHandling.FIXED)
        assert (f" --{option.name}" in [f" {word}" for word in text.split()]) == is_offered, option.name
    assert text.startswith("usage: yangtuo check [run.yaml] [options]\n\nWhat it does.\n")
    assert "  --out                           File to write.\n" in text
    assert "--evaluation_strategy" not in text
    assert max(map(len, text.splitlines())) <= 110
    assert len(text.splitlines()) < 100


def test_what_the_short_help_only_names_is_taken():
    parser = build_parser("yangtuo check", own)
    settings, options = parse(["--learning_rate", "1e-3", "--evaluation_strategy", "steps", "--out", "x"], parser)
    evaluates = {"eval_strategy": "steps", "eval_steps": 500, "do_train": True}
    assert settings.training == {"learning_rate": 1e-3, **evaluates}
    assert options.out == "x"


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_what_other_tools_call_it(name):
    tool, ours = OTHER_NAMES[name]
    assert name not in OPTIONS
    assert {word[2:] for word in ours.split() if word.startswith("--")} <= OPTIONS.keys()
    of_tool = "" if tool == OTHER else f"that is the name in {tool}; "
    with pytest.raises(UsageError) as caught:
        training_of(f"--{name}", "1")
    assert str(caught.value) == f"options: unknown option '--{name}'; {of_tool}here it is {ours}"
