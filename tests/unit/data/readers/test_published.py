"""Rows of published data sets, laid out as those are."""

import json

import pytest

from yangtuo.config.choices import BadRows
from yangtuo.data.readers.reader import Reader, ReadOptions
from yangtuo.errors import DataError


def lines(path, *rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path, **more):
    reading = Reader([path], ReadOptions(**more))
    found = [[(turn.role, turn.text, turn.trained) for turn in record.turns] for record in reading.records()]
    return found, reading.sources[0]


def faults_of(path, **more):
    with pytest.raises(DataError) as caught:
        read(path, **more)
    said = str(caught.value).replace(f"{path.parent}/", "").removeprefix("data: ")
    return [line.strip() for line in said.splitlines()[1:]] or [said]


def said(*texts, system=None):
    """The turns of a dialogue of these texts, every answer trained."""
    turns = [("system", system, False)] if system is not None else []
    return turns + [("user" if i % 2 == 0 else "assistant", text, i % 2 == 1) for i, text in enumerate(texts)]


def moss(*turns, **more):
    marks = {"Human": "eoh", "Inner Thoughts": "eot", "Commands": "eoc", "Tool Responses": "eor", "MOSS": "eom"}
    chat = {}
    for number, turn in enumerate(turns, start=1):
        none = dict.fromkeys(marks, "None") | turn
        spoken = {key: "Results" if key == "Tool Responses" else key for key in marks}
        chat[f"turn_{number}"] = {key: f"<|{spoken[key]}|>: {none[key]}<{mark}>\n" for key, mark in marks.items()}
    return {"conversation_id": 1, "meta_instruction": "You are MOSS.\n", "num_turns": len(turns), "chat": chat, **more}


# ---- Firefly, and others of its kind


@pytest.mark.parametrize("key", ["conversation", "conversations", "dialog"])
@pytest.mark.parametrize(("ask", "reply"), [("human", "assistant"), ("prompt", "response"), ("user", "bot")])
def test_items_of_a_question_and_its_answer(key, ask, reply, tmp_path):
    row = {"conversation_id": 1, "category": "x", key: [{ask: "一", reply: "1"}, {ask: "二", reply: "2"}]}
    found, source = read(lines(tmp_path / "a.jsonl", row))
    assert found == [said("一", "1", "二", "2")]
    assert source.layout == f"{key} as a dialogue, {ask} as the user and {reply} as the assistant"
    assert source.unused == ("category", "conversation_id")


def test_the_system_prompt_of_the_row_or_of_the_first_item(tmp_path):
    turns = [{"human": "一", "assistant": "1"}]
    found, _ = read(lines(tmp_path / "a.jsonl", {"system": "令", "conversation": turns}))
    assert found == [said("一", "1", system="令")]
    turns = [{"system": "令", "input": "一", "output": "1"}, {"input": "二", "output": "2"}]
    found, _ = read(lines(tmp_path / "b.jsonl", {"conversation": turns}))
    assert found == [said("一", "1", "二", "2", system="令")]
    turns[1]["system"] = "又"
    assert faults_of(lines(tmp_path / "c.jsonl", {"conversation": turns})) == [
        "c.jsonl:1 row 0: item 1 of the dialogue: 'system' is \"又\"; expected it in the first alone"
    ]


def test_firefly_of_one_turn(tmp_path):
    found, source = read(lines(tmp_path / "a.jsonl", {"kind": "NLI", "input": "前提", "target": "蕴含"}))
    assert found == [said("前提", "蕴含")]
    assert source.unused == ("kind",)


def test_items_that_are_none_are_named(tmp_path):
    good = {"conversation": [{"human": "一", "assistant": "1"}]}
    bad = [
        {"conversation": [{"human": "一"}, {"human": " ", "assistant": None}]},
        {"conversation": []},
        {"other": 1},
        {"conversation": [{"human": "一", "assistant": ""}]},
    ]
    path = lines(tmp_path / "a.jsonl", good, *bad, '"')
    assert faults_of(path) == [
        'a.jsonl:2 row 1: item 0 of the dialogue is an object, {"human": "一"}; expected a question and its answer',
        "a.jsonl:2 row 1: item 1 of the dialogue: 'human' is a text, \" \"; expected a text that is not empty",
        "a.jsonl:2 row 1: item 1 of the dialogue: 'assistant' is null; expected a text",
        "a.jsonl:3 row 2: the dialogue is a list, []; expected a list that is not empty",
        "a.jsonl:4 row 3: no 'conversation' (keys: other); expected a dialogue, as in the file's first row",
        "a.jsonl:5 row 4: the answer is empty; write it, or leave the row out (--bad_rows drop)",
        'a.jsonl:6 row 5: expected an object, found a text, "\\""',
    ]
    assert len(read(path, bad_rows=BadRows.DROP)[0]) == 1


# ---- MOSS


def test_moss_003_loses_its_marks(tmp_path):
    row = moss({"Human": "一？", "MOSS": "1。\n2。"}, {"Human": "二？", "MOSS": "<eom>是标记。"}, category="Code")
    found, source = read(lines(tmp_path / "a.jsonl", row))
    assert found == [said("一？", "1。\n2。", "二？", "<eom>是标记。", system="You are MOSS.\n")]
    assert source.layout == "chat as a dialogue, in MOSS's marks, meta_instruction as system"
    assert source.unused == ("category", "conversation_id")
    del row["meta_instruction"]
    assert read(lines(tmp_path / "b.jsonl", row))[0][0][0][0] == "user"


def test_moss_with_plugins_is_a_fault_of_its_row(tmp_path):
    good = moss({"Human": "一", "MOSS": "1"})
    calls = moss({"Human": "一", "MOSS": "1", "Inner Thoughts": "算一算", "Commands": 'Calculate("1+1")'})
    bare = {"chat": {"turn_1": {"Human": "一", "MOSS": None}}}
    path = lines(tmp_path / "a.jsonl", good, calls, bare)
    assert faults_of(path) == [
        "a.jsonl:2 row 1: turn_1: 'Inner Thoughts' is \"算一算\": plugins of MOSS cannot be trained; remove it",
        'a.jsonl:2 row 1: turn_1: \'Commands\' is "Calculate(\\"1+1\\")": plugins of MOSS cannot be trained; remove it',
        'a.jsonl:3 row 2: turn_1 is an object, {"Human": "一", "MOSS": null}; expected the texts Human and MOSS',
    ]


def test_moss_002(tmp_path):
    row = {
        "id": 1,
        "prefix": "令",
        "num_turns": 2,
        "plain_text": "[Human]: 一<eoh> [MOSS]: 1<eoa> [Human]: 二<eoh> [MOSS]: 2\n3<eoa>",
    }
    found, source = read(lines(tmp_path / "a.jsonl", row))
    assert found == [said("一", "1", "二", "2\n3", system="令")]
    assert source.unused == ("id",)
    path = lines(tmp_path / "b.jsonl", row, row | {"plain_text": "一段话 [Human]: 一<eoh> [MOSS]: 1<eoa>"})
    assert faults_of(path) == [
        "b.jsonl:2 row 1: 'plain_text' is a text, \"一段话 [Human]: 一<eoh> [MOSS]: 1<eoa>\"; "
        "expected [Human]: ... <eoh> [MOSS]: ... <eoa>"
    ]


# ---- BELLE


def test_belles_dialogues_become_turns(tmp_path):
    row = {
        "instruction": "Human:你好\nAssistant: 你好！\n有事吗？\nHuman:冷吗\nAssistant:",
        "input": "",
        "output": " 不冷。",
    }
    one = {"instruction": "Human:你好\nAssistant:", "input": "", "output": " 你好！"}
    found, source = read(lines(tmp_path / "a.jsonl", row, one))
    assert found == [said("你好", "你好！\n有事吗？", "冷吗", "不冷。"), said("你好", "你好！")]
    assert source.layout == "instruction as a dialogue, in BELLE's Human: and Assistant:"


def test_other_rows_beside_belles_are_as_they_are(tmp_path):
    row = {"instruction": "Human:你好\nAssistant:", "input": "", "output": " 你好！"}
    plain = {"instruction": "写诗", "input": "春天", "output": " 春眠"}
    found, _ = read(lines(tmp_path / "a.jsonl", row, plain))
    assert found[1] == said("写诗\n春天", " 春眠")
    found, source = read(lines(tmp_path / "b.jsonl", plain, row))  # the first row tells, and says nothing
    assert (found[1][0][1], source.layout) == ("Human:你好\nAssistant:", "")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {"instruction": "Human:你好\nHuman:在吗\nAssistant:"},
            "'instruction' is a dialogue of Human, Human, Assistant; ",
        ),
        (
            {"input": "x"},
            "'instruction' is a dialogue of Human, Assistant; expected Human and Assistant in turn, and no",
        ),
    ],
)
def test_a_dialogue_of_belle_that_cannot_be_read(more, said, tmp_path):
    row = {"instruction": "Human:你好\nAssistant:", "input": "", "output": " 你好！"}
    (fault,) = faults_of(lines(tmp_path / "a.jsonl", row, row | more))
    assert fault.startswith(f"a.jsonl:2 row 1: {said}")


def test_belle_of_3_5m_is_sharegpt(tmp_path):
    row = {"id": "1", "conversations": [{"from": "human", "value": "一"}, {"from": "assistant", "value": "1"}]}
    found, source = read(lines(tmp_path / "a.jsonl", row))
    assert (found, source.layout, source.data_format) == ([said("一", "1")], "", "sharegpt")
