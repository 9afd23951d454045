"""Chinese and English: which is spoken, and a catalogue that has every message with the same places in it."""

import ast
import copy
import importlib.util
import json
import logging
import pickle
import re
import string
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yangtuo import errors, i18n, logs
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


def test_a_message_with_another_value_is_the_same_sentence():
    few = i18n.Message("--{name} {value}: at least {least}", name="x", value=0, least=1)
    assert few.with_values(name="y") == "--y 0: at least 1"
    assert i18n.Listed([few, "b"], "; ").with_values(part1="c") == "--x 0: at least 1; c"


def test_chinese_for_a_file_is_not_heard_by_another_thread():
    """A line that is said beside it stays in the language that was chosen."""
    few = i18n.Message("--{name} {value}: at least {least}", name="x", value=0, least=1)
    stop = threading.Event()

    def notes():
        while not stop.is_set():
            i18n.in_chinese(few)

    beside = threading.Thread(target=notes)
    beside.start()
    try:
        assert {str(i18n.tr(few)) for _ in range(20_000)} == {"--x 0: at least 1"}
    finally:
        stop.set()
        beside.join()


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


# ---- errors


def test_no_error_is_put_together_from_halves():
    """A template is a whole sentence: an f-string has no template, and a sum is two halves in the order of English."""
    names = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    marked = names | {"Message", "gettext_noop"}
    wrong = []
    for path in sorted(Path(errors.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in marked and node.args:
                halves = [node.args[0]]
            elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
                sides = (node.left, node.right)
                halves = [node] if any(isinstance(one, ast.Call) and _is_message(one) for one in sides) else []
            else:
                continue
            wrong += [f"{path}:{one.lineno}" for one in halves if isinstance(one, ast.JoinedStr | ast.BinOp)]
    assert wrong == []


def _is_message(call):
    return isinstance(call.func, ast.Name) and call.func.id == "Message"


def test_an_error_is_english_text_and_is_shown_in_chinese(capsys):
    error = errors.UsageError("--{name} {value}: at least {least}", name="lora_rank", value=0, least=1)
    assert str(error) == "--lora_rank 0: at least 1"
    assert pickle.loads(pickle.dumps(error)).text == str(error)
    i18n.use("zh")
    assert i18n.tr(error.text) == "--lora_rank 0：至少为 1"
    assert i18n.tr(i18n.Message("{told}; give a smaller --max_seq_length", told=error)).startswith(
        "--lora_rank 0：至少"
    )


def test_the_text_of_an_error_without_values_may_hold_braces():
    assert str(errors.DataError('{"a": 1}')) == '{"a": 1}'


def test_all_problems_are_shown_in_chinese():
    problems = [i18n.Message("--{name} {value}: at least {least}", name="x", value=n, least=9) for n in range(3)]
    i18n.use("zh")
    told = i18n.tr(errors.UsageError.of_problems(i18n.Message("options"), problems, shown=2).text)
    assert told == "选项（3 个问题）：\n  --x 0：至少为 9\n  --x 1：至少为 9\n  ……另有 1 个"
    told = i18n.tr(errors.UsageError.of_problems(i18n.Message("options"), problems[:1]).text)
    assert told == "选项：--x 0：至少为 9"


def test_only_the_first_of_many_are_shown():
    assert i18n.shortened(["a", "b", "c"], 2) == "a; b; and 1 more"
    assert i18n.shortened(["a", "b"], 2) == "a; b"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "错误：未知命令 'trian'；是不是 'train'？"),
        (["merge", "x"], "错误：yangtuo merge：缺少必需的参数：--output_dir；"),
        (["train", "--max_steps", "many"], "错误：yangtuo train：--max_steps/--max-steps：'many' 不是合法的 int 值"),
        (["train", "--lora_rnk", "8"], "错误：选项：未知选项 '--lora_rnk'；是不是 '--lora_rank'？"),
        (["chat", "path/to/model"], "错误：--model_name_or_path path/to/model：没有这个目录；脚本里还是占位的路径"),
    ],
)
def test_what_a_person_types_wrongly_is_answered_in_chinese(capsys, words, said):
    assert main(["--lang", "zh", *words]) == 2
    assert capsys.readouterr().err.startswith(said)


def test_what_a_page_is_made_of_is_in_a_file_in_both_languages():
    few = i18n.Message("--{name} {value}: at least {least}", name="x", value=0, least=1)
    i18n.use("en")
    assert i18n.with_chinese("text", few) == {"text": "--x 0: at least 1", "text_zh": "--x 0：至少为 1"}
    assert i18n.with_chinese("notes", [few, "as it is"])["notes_zh"] == ["--x 0：至少为 1", "as it is"]
    assert i18n.tr(few) == "--x 0: at least 1", "the language that is spoken is as before"
    logs.set_up()
    logging.getLogger("yangtuo.test").warning("step %d: %s", 5, few)
    kept = logs.notes_with_chinese()
    assert (kept["notes"][-1], kept["notes_zh"][-1]) == ("step 5: --x 0: at least 1", "第 5 步：--x 0：至少为 1")
