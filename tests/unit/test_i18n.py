"""Chinese and English: which is spoken, and a catalogue that has every message with the same places in it."""

import copy
import importlib.util
import json
import logging
import pickle
import re
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yangtuo import i18n, logs
from yangtuo.cli import main

CATALOGUE = Path(__file__).parents[2] / "scripts" / "catalogue.py"
PERCENT = re.compile(r"%(?:\((\w+)\))?[-+#0,]*\d*(?:\.\d+)?[diouxXeEfFgGcrsa%]")
# What a Chinese sentence may leave in English: names, and lines of commands.
NO_CHINESE = re.compile(r"[\u4e00-\u9fff]")


@pytest.fixture(scope="module")
def catalogue():
    pytest.importorskip("babel", reason="the dev extra brings it")
    spec = importlib.util.spec_from_file_location("catalogue", CATALOGUE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def english():
    yield
    i18n.use("en")


def places(text):
    """The named places of `str.format`, and those of `%` in their order, by which they are filled."""
    try:
        named = sorted(f"{name}!{kind}:{spec}" for _, name, spec, kind in string.Formatter().parse(text) if name)
    except ValueError:  # braces that are none of format's, as in a JSON example
        named = []
    return named, [found[0] for found in PERCENT.finditer(text) if found[0] != "%%"]


def entries(catalogue):
    from babel.messages.pofile import read_po

    with catalogue.PO.open("rb") as file:
        return [message for message in read_po(file, locale="zh_CN") if message.id]


def test_every_message_has_its_chinese_and_the_catalogue_is_todays(catalogue):
    from babel.messages.pofile import read_po

    with catalogue.PO.open("rb") as file:
        there = read_po(file, locale="zh_CN")
    new = catalogue.updated(there, catalogue.messages())
    assert [message.id for message in new if message.id and not message.string] == []
    assert catalogue.text_of(new) == catalogue.PO.read_bytes(), "run python scripts/catalogue.py"
    assert catalogue.PO.with_suffix(".mo").read_bytes() == catalogue.compiled(there)


def test_a_translation_has_the_places_of_its_message(catalogue):
    wrong = [one.id for one in entries(catalogue) if places(one.id) != places(one.string)]
    assert wrong == []


def test_a_translation_is_chinese(catalogue):
    words = [one.id for one in entries(catalogue) if not NO_CHINESE.search(one.string)]
    assert [text for text in words if len(re.findall(r"[a-z]{3,}", re.sub(r"[-\w]*[{%<_/.-]\S*", "", text))) > 2] == []


def test_a_broken_translation_would_be_found():
    assert places("{name}: %s of %d") != places("%s：{name}")
    assert places("a {n:,} b") != places("甲 {n} 乙")
    assert places("{name}: %s of %s") == places("%s 之 %s：{name}")
    assert places("%s of %d") != places("%d 之 %s"), "an order that `%` would fill with the wrong values"
    assert places("{a} of {b}") == places("{b} 之 {a}")


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LC_MESSAGES": "zh_TW", "LANG": "en_US.UTF-8"}, "zh"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "en_US.UTF-8", "YANGTUO_LANG": "zh"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "YANGTUO_LANG": "EN"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "YANGTUO_LANG": "auto"}, "zh"),
    ],
)
def test_the_language_is_the_locales_unless_a_variable_says_another(monkeypatch, environment, language):
    for name in ("LC_ALL", "LC_MESSAGES", "LANG", "YANGTUO_LANG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("locale.getlocale", lambda: (None, None))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert i18n.of_machine() == language


def test_the_option_stands_anywhere_and_the_last_one_counts():
    assert i18n.taken_from(["train", "--lang", "zh", "a.yaml"]) == ("zh", ["train", "a.yaml"])
    assert i18n.taken_from(["--lang=en", "chat", "--lang", "zh"]) == ("zh", ["chat"])
    assert i18n.taken_from(["chat", "--lang"]) == ("", ["chat"])
    assert i18n.taken_from(["chat"]) == (None, ["chat"])


def finding():
    rows = i18n.Message("{num_rows:,} rows", num_rows=1234)
    return i18n.Message("{what} was not measured.", what=rows)


def test_a_message_is_english_text_and_is_shown_in_chinese_with_what_it_holds():
    message = finding()
    assert message == "1,234 rows was not measured."
    assert json.loads(json.dumps({"text": message})) == {"text": "1,234 rows was not measured."}
    assert i18n.tr(message) == message
    i18n.use("zh")
    assert i18n.tr(message) == "1,234 条：未测。"
    assert i18n.tr(f"{message}") == message, "an f-string knows no template"


@pytest.mark.parametrize("again", [lambda one: pickle.loads(pickle.dumps(one)), copy.deepcopy])
def test_a_message_is_sent_to_other_processes_and_copied_whole(again):
    listed = i18n.Listed([finding(), "{braces}"], "; ")
    i18n.use("zh")
    assert again(listed) == listed == "1,234 rows was not measured.; {braces}"
    assert i18n.tr(again(listed)) == "1,234 条：未测。；{braces}"


@pytest.mark.parametrize(
    ("between", "chinese"), [(", ", "甲，乙"), ("; ", "甲；乙"), (" and ", "甲和乙"), (" ", "甲乙"), ("\n", "甲\n乙")]
)
def test_what_stands_between_is_chinese_too(between, chinese):
    listed = i18n.Listed(["甲", "乙"], between)
    assert i18n.tr(listed) == f"甲{between}乙"
    i18n.use("zh")
    assert i18n.tr(listed) == chinese


@given(st.text(), st.integers())
def test_a_value_may_hold_anything(text, number):
    message = i18n.Message("{told}: {number}", told=text, number=number)
    assert message == f"{text}: {number}" == i18n.tr(message)


def test_a_chinese_character_takes_two_columns():
    assert (i18n.columns_of("ab"), i18n.columns_of("a中，"), i18n.columns_of("")) == (2, 5, 0)


def test_a_message_in_a_log_line_is_translated_and_noted_in_english(capsys):
    logs.set_up()
    i18n.use("zh")
    logger = logging.getLogger("yangtuo.test")
    logger.warning("step %d: %s", 3, finding())
    logger.warning(finding())
    assert capsys.readouterr().err == "第 3 步：1,234 条：未测。\n1,234 条：未测。\n"
    assert logs.notes_so_far()[-2:] == ["step 3: 1,234 rows was not measured.", "1,234 rows was not measured."]


def test_help_is_in_the_language_that_was_asked_for(capsys):
    assert main(["--lang", "zh", "--help"]) == 0
    assert "训练" in capsys.readouterr().out
    assert main(["--lang", "en", "--help"]) == 0
    assert "训练" not in capsys.readouterr().out
    assert main(["--help", "--lang=klingon"]) == 2
    assert "--lang klingon" in capsys.readouterr().err


def test_a_log_line_is_translated_where_it_is_shown_and_kept_in_english(capsys):
    logs.set_up()
    i18n.use("zh")
    logging.getLogger("yangtuo.cli.chat").warning("--%s has no effect: nothing is drawn, see --temperature", "top_p")
    assert "--top_p" in (said := capsys.readouterr().err)
    assert "has no effect" not in said
    assert any("--top_p has no effect" in note for note in logs.notes_so_far())
