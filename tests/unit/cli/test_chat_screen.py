import io
import json

import pytest
from rich.console import Console

from tests.unit.inference.test_dialogue import Says
from yangtuo.cli.chat_screen import Screen, visible
from yangtuo.data.templates import ALPACA_ZH
from yangtuo.errors import RunFailure
from yangtuo.inference.dialogue import ChatSession


class Talks(Says):
    """Says what it was asked, in pieces, unless the question is an exception's."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def answer(self, prompt, tell, *, keeps_interrupted):
        question = self.seen[-1][-1].text
        if question == "broken":
            raise RunFailure("the model computes no numbers")
        if question == "impatient" and self.name == "base":
            raise KeyboardInterrupt
        self.answers.append((f"{self.name}说：{question}", question != "stopped"))
        return super().answer(prompt, tell, keeps_interrupted=keeps_interrupted)


@pytest.fixture
def talk(monkeypatch):
    """Type these lines; returns what the terminal shows."""

    def run(*lines, names=("tuned",), width=100, room=None):
        typed = iter(lines)

        def read(prompt):
            try:
                line = next(typed)
            except StopIteration:
                raise EOFError from None
            if line is KeyboardInterrupt:
                raise KeyboardInterrupt
            return line

        monkeypatch.setattr("builtins.input", read)
        out = io.StringIO()
        run.sessions = [ChatSession(name, Talks(name), ALPACA_ZH, room, None) for name in names]
        Screen(run.sessions, Console(file=out, width=width, highlight=False)).run()
        run.exchanges = [[one.question for one in session.dialogue.exchanges] for session in run.sessions]
        return out.getvalue()

    return run


def test_a_question_is_answered_and_told_how_it_ended(talk):
    shown = talk("你好", "stopped")
    assert "tuned ❯ tuned说：你好\n9 tokens, 9.0 a second, stopped by </s>\n" in shown
    assert "stopped by Ctrl-C" in shown
    assert talk.exchanges == [["你好", "stopped"]]


def test_nothing_is_asked_for_an_empty_line(talk):
    talk("", "   ", "/quit", "never read")
    assert talk.exchanges == [[]]


def test_lines_go_on_after_a_backslash_and_between_triple_quotes(talk):
    talk("one\\", "two", '"""three', "", "four", 'five"""', '"""alone"""')
    assert talk.exchanges == [["one\ntwo", "three\n\nfour\nfive", "alone"]]


def test_ctrl_c_at_the_prompt_ends_nothing(talk):
    shown = talk(KeyboardInterrupt, "你好")
    assert "/quit or Ctrl-D ends" in shown
    assert talk.exchanges == [["你好"]]


def test_commands(talk, tmp_path):
    saved = tmp_path / "a.json"
    shown = talk(
        *("/help", "一", "二", "/undo", "/retry", f"/save {saved}", "/system 短", "三", "/system", "/clear", "四")
    )
    assert "/save FILE.json" in shown
    assert "taken back: 二" in shown
    assert "you ❯ 一\ntuned ❯ tuned说：一" in shown
    assert "saved: " in shown
    assert talk.exchanges == [["四"]]
    (row,) = json.loads(saved.read_text(encoding="utf-8"))
    assert [message["content"] for message in row["messages"]] == ["一", "tuned说：一"]
    seen = talk.sessions[0]._generator.seen
    assert [len(turns) for turns in seen] == [1, 3, 1, 4, 1]
    assert seen[3][0].text == "短"


def test_no_system_prompt_is_asked_for_by_an_empty_one(talk):
    shown = talk('/system ""', "一", "/system", "二", '/system ""', "三", names=("base", "tuned"))
    assert shown.count("system prompt: none") == 2
    assert "system prompt: the template's own" in shown
    for session in talk.sessions:
        assert [turns[0].text for turns in session._generator.seen] == ["", "一", ""]


def test_faults_of_the_user_are_told_and_the_dialogue_goes_on(talk):
    shown = talk(
        "/nothing", "/undo", "/retry", "/save", "/save a.json", "broken", "\udcff", "/etc/passwd 是什么", "你好"
    )
    for told in (
        "error: /nothing: no such command; /help lists them",
        "error: nothing has been said yet",
        "error: /save FILE.json: name the file",
        "error: there is no whole answer yet that could be trained on",
        "error: the model computes no numbers",
        "error: what was typed is not UTF-8",
    ):
        assert told in shown
    assert talk.exchanges == [["/etc/passwd 是什么", "你好"]]


def test_a_dialogue_that_outgrows_the_model_is_told_once(talk):
    shown = talk("一" * 5, "二" * 5, "三" * 5, room=20)
    assert shown.count("longer than the model has room for") == 1
    assert talk.sessions[0].dialogue.num_left_out == 2


def test_base_and_tuned_are_shown_side_by_side(talk):
    shown = talk("你好", names=("base", "tuned"), width=60)
    (row,) = [line for line in shown.splitlines() if "base说：你好" in line]
    assert "tuned说：你好" in row
    assert row.index("base说") < row.index("tuned说")
    assert talk.exchanges == [["你好"], ["你好"]]


def test_each_of_two_has_its_own_dialogue_and_both_have_the_same_questions(talk):
    talk("一", "impatient", "broken", "二", "/undo", "三", names=("base", "tuned"))
    assert talk.exchanges == [["一", "三"], ["一", "三"]]
    assert [one.answer for one in talk.sessions[0].dialogue.exchanges] == ["base说：一", "base说：三"]


def test_chinese_in_a_table_is_as_wide_as_the_terminal_shows_it(talk):
    shown = talk("长城" * 30, names=("base", "tuned"), width=50)
    lines = [line for line in shown.splitlines() if line.startswith("│")]
    widths = {sum(2 if "\u2e80" <= character < "\uff61" else 1 for character in line) for line in lines}
    assert widths == {50}
    assert sum(line.count("长") + line.count("城") for line in lines) == 120


def test_a_models_text_does_not_steer_the_terminal():
    assert visible("a\x1b[2Jb\r\x9b\x7f\t\n中") == "a␛[2Jb␍\ufffd␡\t\n中"
