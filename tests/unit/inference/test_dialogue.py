import json
import resource

import pytest

from tests.chat_templates import QWEN3
from yangtuo.data.chat_template import ChatTemplate
from yangtuo.data.readers import reader as reading
from yangtuo.data.templates import ALPACA_ZH
from yangtuo.errors import DataError, UsageError, WriteError
from yangtuo.inference.dialogue import ChatSession, Dialogue, Exchange, save_row
from yangtuo.inference.generate import Answer


class Says:
    """A speaker whose answers are given; a turn counts as many tokens as it has characters."""

    def __init__(self, *answers):
        self.answers, self.seen = list(answers), []

    def prompt(self, turns):
        self.seen.append(turns)
        return [0] * sum(len(turn.text) for turn in turns)

    def answer(self, prompt, tell, *, keeps_interrupted):
        text, is_whole = self.answers.pop(0)
        tell(text)
        return Answer(text, "</s>" if is_whole else "Ctrl-C", is_whole, len(text), len(prompt), 1.0)

    def reseed(self):
        self.seen.append("reseed")


def told(dialogue, question):
    return [(turn.role, turn.text) for turn in dialogue.turns(question)]


def talked(*exchanges, system=None):
    dialogue = Dialogue(system)
    dialogue.exchanges += [Exchange(*one) for one in exchanges]
    return dialogue


def session(*answers, room=None, template=ALPACA_ZH):
    generator = Says(*answers)
    return generator, ChatSession("tuned", generator, template, room, None)


def test_the_model_is_shown_all_turns_with_the_question_last():
    dialogue = talked(("一", "壹", True), ("二", "贰", False), system="短")
    assert told(dialogue, "三") == [
        ("system", "短"),
        *(("user", "一"), ("assistant", "壹")),
        *(("user", "二"), ("assistant", "贰")),
        ("user", "三"),
    ]
    assert not any(turn.trained for turn in dialogue.turns("三"))


def test_a_question_whose_answer_was_stopped_before_it_began_is_not_shown_but_can_be_taken_back():
    dialogue = talked(("一", "壹", True), ("二", "", False))
    assert told(dialogue, "三") == [("user", "一"), ("assistant", "壹"), ("user", "三")]
    assert dialogue.undo().question == "二"
    assert dialogue.undo().question == "一"
    assert dialogue.undo() is None


def test_clear_keeps_the_system_prompt():
    dialogue = talked(("一", "壹", True), system="短")
    dialogue.num_left_out = 1
    dialogue.clear()
    assert told(dialogue, "二") == [("system", "短"), ("user", "二")]
    assert dialogue.num_left_out == 0


def test_the_oldest_are_left_out_where_the_room_ends_and_stay_out():
    dialogue = talked(("一" * 10, "壹" * 10, True), ("二" * 10, "贰" * 10, True), system="短")

    def length(turns):
        return [0] * sum(len(turn.text) for turn in turns)

    assert len(dialogue.fit("三" * 5, length, 46)) == 46
    assert dialogue.num_left_out == 0
    assert len(dialogue.fit("三" * 5, length, 45)) == 26
    assert dialogue.num_left_out == 1
    assert len(dialogue.fit("三" * 5, length, None)) == 26
    assert len(dialogue.fit("三" * 25, length, 26)) == 26
    with pytest.raises(DataError, match=r"a prompt of 27 tokens; .* room for 26"):
        dialogue.fit("三" * 26, length, 26)
    dialogue.undo()
    assert dialogue.num_left_out == 1


# ---- a partner


def test_asking_goes_on_with_what_was_said():
    generator, tuned = session(("壹", True), ("贰", False), ("叁", True))
    pieces = []
    for question in ("一", "二", "三"):
        tuned.ask(question, pieces.append)
    assert pieces == ["壹", "贰", "叁"]
    assert [(turn.role, turn.text) for turn in generator.seen[-1]] == told(
        talked(("一", "壹", True), ("二", "贰", False)), "三"
    )
    assert tuned.dialogue.exchanges[-1] == Exchange("三", "叁", True)
    tuned.start_over()
    assert (tuned.dialogue.exchanges, generator.seen[-1]) == ([], "reseed")


def test_a_question_that_is_too_long_leaves_the_dialogue_as_it_was():
    _, tuned = session(("壹", True), room=5)
    tuned.ask("一", str)
    with pytest.raises(DataError):
        tuned.ask("二" * 6, str)
    assert tuned.dialogue.exchanges == [Exchange("一", "壹", True)]


@pytest.mark.parametrize("begin", ["<think>\n", ""], ids=["opened by the answer", "opened by the prompt"])
def test_thoughts_of_earlier_answers_are_shown_as_the_template_shows_them(begin):
    reasoned = f"{begin}数一数。\n</think>\n\n五。"
    template = ChatTemplate(QWEN3, {}, None, ("<|im_start|>", "<|im_end|>"))
    _, tuned = session((reasoned, True), template=template)
    assert tuned.ask("2加3？", str).text == tuned.dialogue.exchanges[0].answer == reasoned
    (asked,) = template.prompt_of(tuned.dialogue.turns("3加3？"))
    prompt = "".join(piece.text for piece in asked.before) + asked.user + asked.after
    assert "五。<|im_end|>" in prompt
    assert "数一数" not in prompt
    assert prompt.endswith("3加3？<|im_end|>\n<|im_start|>assistant\n")


# ---- the row that it makes


def test_a_saved_dialogue_is_read_by_training_with_cut_answers_untrained(tmp_path):
    """Also where an answer holds what some programs take for the end of a line."""
    dialogue = talked(
        ("一", "壹\u2028\x85", True), ("二", "贰贰", False), ("停", "", False), ("三", "叁", True), system="短"
    )
    for name in ("a.json", "a.jsonl"):
        assert save_row(tmp_path / name, dialogue.row()) == 1
        assert save_row(tmp_path / name, talked(("四", "肆", True)).row()) == 2
        records, _ = reading.read([tmp_path / name])
        assert [(turn.role, turn.text, turn.trained) for turn in records[0].turns] == [
            ("system", "短", False),
            *(("user", "一", False), ("assistant", "壹\u2028\x85", True)),
            *(("user", "二", False), ("assistant", "贰贰", False)),
            *(("user", "三", False), ("assistant", "叁", True)),
        ]
        assert len(records) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.jsonl"]


def test_nothing_to_train_on_is_not_saved():
    for dialogue in (talked(), talked(("一", "壹", False))):
        with pytest.raises(UsageError, match="no whole answer"):
            dialogue.row()


def test_a_file_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "config.json").write_text('{"a": 1}')
    (tmp_path / "broken.json").write_text("[1")
    row = talked(("一", "壹", True)).row()
    for name, why in (
        ("config.json", "no list of rows"),
        ("broken.json", "cannot be added to"),
        ("a.txt", "ends in .json"),
        ("nothing/a.json", "No such file"),
    ):
        with pytest.raises(DataError, match=why):
            save_row(tmp_path / name, row)
    assert json.loads((tmp_path / "config.json").read_text()) == {"a": 1}
    assert (tmp_path / "broken.json").read_text() == "[1"


def test_a_full_disk_leaves_the_file_of_before(tmp_path):
    path = tmp_path / "a.json"
    assert save_row(path, talked(("一", "壹", True)).row()) == 1
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, before[1]))
    try:
        with pytest.raises(WriteError, match=r"a\.json: cannot be written: File too large"):
            save_row(path, talked(("二", "贰", True)).row())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(json.loads(path.read_text(encoding="utf-8"))) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
