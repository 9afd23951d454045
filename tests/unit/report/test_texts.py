"""Every text in both languages, and every text that a template asks for."""

import re
from pathlib import Path

import pytest

from yangtuo.report import texts

TEMPLATES = Path(texts.__file__).with_name("templates")
ASKED = {
    name
    for path in TEMPLATES.iterdir()
    for name in re.findall(r"""\bt\('([\w./ ]+)'[,)]""", path.read_text(encoding="utf-8"))
}


def test_the_templates_ask_for_texts():
    assert len(ASKED) > 60


def test_every_text_of_a_template_is_there():
    assert [name for name in sorted(ASKED) if not texts.has(name)] == []


def test_both_languages_have_the_same_values_and_code():
    for name, (english, chinese) in texts.table().items():
        assert english, name
        assert set(re.findall(r"{\w+}", english)) == set(re.findall(r"{\w+}", chinese)), name
        assert sorted(re.findall(r"`[^`]+`", english)) == sorted(re.findall(r"`[^`]+`", chinese)), name


def test_chinese_is_chinese():
    for name, (english, chinese) in texts.table().items():
        assert english == chinese or re.search(r"[\u4e00-\u9fff：]", chinese), name


def test_no_text_is_left_over():
    source = "\n".join(
        path.read_text(encoding="utf-8") for path in [*TEMPLATES.iterdir(), *TEMPLATES.parent.glob("*.py")]
    )
    by_parts = ("event.", "measure.", "part.", "count.", "origin.", "evaluation.", "curve.", "verdict.", "missing.")
    by_parts += ("next.", "data.", "answers.", "runs.proof.")
    unused = [name for name in texts.table() if f"'{name}'" not in source and f'"{name}"' not in source]
    assert [name for name in unused if not name.startswith(by_parts)] == []


def test_events_of_the_monitor_have_names():
    from yangtuo.engine import early_stopping, monitor

    source = Path(monitor.__file__).read_text(encoding="utf-8")
    names = {*re.findall(r'Event\(\s*"(\w+)"', source), early_stopping.EXTENDED}
    assert len(names) > 6
    assert [name for name in names if not texts.has(f"event.{name}")] == []


def test_parts_of_the_memory_plan_have_names():
    from yangtuo.training import memory_plan

    source = Path(memory_plan.__file__).read_text(encoding="utf-8")
    of_plan = {name for name in texts.table() if name.startswith("part.")}
    assert {name.removeprefix("part.") for name in of_plan} == set(re.findall(r'gettext_noop\("([\w ]+)"\)', source))


def test_values_are_escaped_and_backticks_are_code():
    assert texts.both("proof.changed", n="<b>", of=2).count("&lt;b&gt;") == 2
    assert "<code>--sample_prompts</code>" in texts.both("answers.of_samples", step=1)
    assert texts.either("event", "<new>") == "<code>&lt;new&gt;</code>"
    with pytest.raises(KeyError):
        texts.both("no such text")
