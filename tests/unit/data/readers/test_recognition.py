"""What the rows of a file are, by its first row: formats, known pairs, rows for another job."""

import json

import pytest

from yangtuo.config.choices import BadRows, DataFormat
from yangtuo.data.readers.reader import Reader, ReadOptions
from yangtuo.data.readers.recognition import layout_of
from yangtuo.data.records import Turn
from yangtuo.errors import DataError

ALPACA, SHAREGPT, MESSAGES, PROMPTS = (
    DataFormat.ALPACA,
    DataFormat.SHAREGPT,
    DataFormat.MESSAGES,
    DataFormat.PROMPT_COMPLETION,
)
TURNS = (Turn("user", "问", trained=False), Turn("assistant", "答", trained=True))


def lines(path, *rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path, **more):
    reading = Reader([path], ReadOptions(**more))
    return [record.turns for record in reading.records()], reading.sources[0]


def fault_of(path, **more):
    with pytest.raises(DataError) as caught:
        read(path, **more)
    return str(caught.value).replace(f"{path.parent}/", "").removeprefix("data: ")


@pytest.mark.parametrize(
    ("row", "data_format"),
    [
        ({"instruction": "a", "output": "b"}, ALPACA),
        ({"instruction": "a", "output": "b", "prompt": "c"}, ALPACA),
        ({"instruction": "a", "output": "b", "question": "c", "answer": "d"}, ALPACA),
        ({"output": "b"}, ALPACA),
        ({"output": "b", "id": "c"}, ALPACA),
        ({"conversations": []}, SHAREGPT),
        ({"messages": 3, "output": "a"}, MESSAGES),
        ({"messages": [], "question": "a", "answer": "b"}, MESSAGES),
        ({"prompt": "a", "completion": "b", "id": 1}, PROMPTS),
        ({"completion": "b"}, PROMPTS),
        ("a text", ALPACA),
    ],
)
def test_rows_that_are_known_as_they_stand_are_not_touched(row, data_format):
    layout = layout_of(row)
    assert (layout.data_format, layout.as_known, layout.told) == (data_format, None, "")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (
            {"messages": [], "instruction": "", "output": ""},
            "its keys fit messages and alpaca; name one with --format",
        ),
        (
            {"data": [{"instruction": "a"}], "version": 1},
            "no row, but an object with a list of objects under 'data' (keys: data, version); "
            "if these are the rows, write that list alone into the file",
        ),
        (
            {"客户描述": "a", "结果": "b"},
            "unknown format (keys: 客户描述, 结果); expected one of: messages (messages); conversations (sharegpt); "
            "completion, prompt (prompt_completion); instruction, output (alpaca); or say which column is what: "
            '--columns \'{"客户描述": "instruction", "结果": "output"}\'',
        ),
    ],
)
def test_keys_that_tell_no_format_are_named(row, why):
    assert layout_of(row) == why


PAIRS = [
    ({"question": "问", "answer": "答"}, "question as instruction, answer as output"),
    ({"query": "问", "response": "答"}, "query as instruction, response as output"),
    ({"input": "问", "output": "答"}, "input as instruction"),
    ({"prompt": "问", "response": "答"}, "prompt as instruction, response as output"),
    ({"instruction": "问", "response": "答"}, "response as output"),
    ({"Question": "问", " Answer": "答"}, "Question as instruction,  Answer as output"),
    ({"INSTRUCTION": "问", "RESPONSE": "答", "SOURCE": "x"}, "INSTRUCTION as instruction, RESPONSE as output"),
    ({"kind": "NLI", "input": "问", "target": "答"}, "input as instruction, target as output"),
    ({"department": "x", "title": "y", "ask": "问", "answer": "答"}, "ask as instruction, answer as output"),
    ({"user": "问", "assistant": "答"}, "user as instruction, assistant as output"),
    ({"user": "张三", "question": "问", "answer": "答"}, "question as instruction, answer as output"),
    ({"问题": "问", "回答": "答"}, "问题 as instruction, 回答 as output"),
    ({"问题": "问", "答案": "答"}, "问题 as instruction, 答案 as output"),
    ({"问": "问", "答": "答"}, "问 as instruction, 答 as output"),
    ({"标题": "问", "内容": "答"}, "标题 as instruction, 内容 as output"),
    ({"id": 1, "title": "问", "content": "答"}, "title as instruction, content as output"),
    ({"question": "问", "answer": "答", "context": ""}, "question as instruction, answer as output"),
]


@pytest.mark.parametrize(("row", "told"), PAIRS, ids=[told for _, told in PAIRS])
def test_a_known_pair_is_read_and_told(row, told, tmp_path):
    path = lines(tmp_path / "a.jsonl", row)
    found, source = read(path)
    assert found == [TURNS]
    assert (source.data_format, source.layout, source.is_asked) == ("alpaca", told, False)


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "问", "context": "材料", "response": "答", "category": "qa"},
        {"指令": "问", "输入": "材料", "输出": "答"},
        {"Instruction": "问", "Input": "材料", "Output": "答"},
        {"query": "问", "input": "材料", "response": "答"},
    ],
    ids=lambda row: " ".join(row),
)
def test_what_is_added_to_a_question_goes_with_it(row, tmp_path):
    found, _ = read(lines(tmp_path / "a.jsonl", row))
    assert found == [(Turn("user", "问\n材料", trained=False), TURNS[1])]


def test_system_prompt_and_history_go_with_a_pair(tmp_path):
    row = {"system_prompt": "令", "query": "问", "response": "答", "history": [["一", "1"]], "weight": 2}
    ((system, first, _, *last),), source = read(lines(tmp_path / "a.jsonl", row))
    assert (system.text, first.text, last[1].weight) == ("令", "一", 2.0)
    assert source.layout == "query as instruction, response as output, system_prompt as system"


@pytest.mark.parametrize(
    ("row", "proposed"),
    [
        ({"question": "a", "answer": "b", "response": "c"}, '{"question": "instruction", "answer": "output"}'),
        ({"question": "a", "prompt": "b", "answer": "c"}, '{"question": "instruction", "answer": "output"}'),
        (
            {"context": "a", "question": "b", "answer": "c"},
            '{"question": "instruction", "context": "input", "answer": "output"}',
        ),
        (
            {"Question": "a", "Complex_CoT": "b", "Response": "c"},
            '{"Question": "instruction", "Complex_CoT": null, "Response": "output"}',
        ),
        ({"标题": "a", "内容": "b", "作者": "c"}, '{"标题": "instruction", "内容": "output"}'),
        ({"客户提问": "a", "备注": "x", "坐席答复": "b"}, '{"客户提问": "instruction", "坐席答复": "output"}'),
        ({"坐席答复": "b", "客户说": "a"}, '{"客户说": "instruction", "坐席答复": "output"}'),
        ({"n": 1}, '{"COLUMN OF THE QUESTION": "instruction", "COLUMN OF THE ANSWER": "output"}'),
    ],
)
def test_where_it_is_not_plain_the_option_is_proposed(row, proposed):
    assert f"or say which column is what: --columns '{proposed}'" in layout_of(row)


def test_a_later_row_with_the_real_column_is_a_fault(tmp_path):
    path = lines(tmp_path / "a.jsonl", {"input": "", "output": "b"}, {"instruction": "问", "input": "", "output": "答"})
    assert fault_of(path).splitlines()[1:] == [
        "  a.jsonl:1 row 0: 'input' is empty; expected a text that is not empty; write it, or leave the row out "
        "(--bad_rows drop)",
        "  a.jsonl:2 row 1: has both 'instruction' and 'input', of which the file's first row has 'input' alone; "
        "say which is which with --columns",
    ]


def test_a_row_without_its_answer_is_told_in_the_files_names(tmp_path):
    path = lines(tmp_path / "a.jsonl", {"问": "a", "答": "b"}, {"问": "a"}, {"问": "a", "答": 3})
    assert fault_of(path).splitlines()[1:] == [
        "  a.jsonl:2 row 1: no '答' (keys: 问); it is the output",
        "  a.jsonl:3 row 2: '答' is a number, 3; expected a text",
    ]


def test_a_dialogue_under_another_name(tmp_path):
    turns = [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]
    spelled = [{"from": "human", "value": "问"}, {"from": "gpt", "value": "答"}]
    for key, listed in (("conversation", turns), ("dialogue", spelled), ("对话", turns)):
        found, source = read(lines(tmp_path / "a.jsonl", {key: listed, "system": None}))
        assert (found, source.layout) == ([TURNS], f"{key} as messages")


def test_a_format_that_is_named_is_not_detected(tmp_path):
    path = lines(tmp_path / "a.jsonl", {"question": "a", "answer": "b"})
    assert "no 'instruction' (keys: question, answer)" in fault_of(path, data_format=ALPACA)


# ---- rows for another job


DPO = "a.jsonl:1: pairs of a better and a worse answer ('chosen', 'rejected'), which are for DPO; "
TURN = [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]


@pytest.mark.parametrize(
    ("row", "way"),
    [
        (
            {"prompt": "问", "chosen": "答", "rejected": "坏"},
            '--columns \'{"prompt": "instruction", "chosen": "output", "rejected": null}\'',
        ),
        (
            {"system": None, "question": "问", "chosen": "答", "rejected": "坏"},
            '--columns \'{"question": "instruction", "chosen": "output", "rejected": null}\'',
        ),
        ({"chosen": TURN, "rejected": TURN}, '--columns \'{"chosen": "messages", "rejected": null}\''),
        (
            {"instruction": "问", "output": "答", "chosen": "好", "rejected": "坏"},
            '"chosen": "output", "rejected": null',
        ),
        ({"chosen": "\n\nHuman: 问\n\nAssistant: 答", "rejected": "坏"}, "write them into a file of their own"),
    ],
)
def test_pairs_for_dpo_are_told_with_the_way_to_use_them(row, way, tmp_path):
    said = fault_of(lines(tmp_path / "a.jsonl", row))
    assert said.startswith(DPO)
    assert way in said


def test_the_way_that_is_told_works(tmp_path):
    from yangtuo.data.readers import columns

    for row in ({"prompt": "问", "chosen": "答", "rejected": "坏"}, {"prompt": "x", "chosen": TURN, "rejected": TURN}):
        path = lines(tmp_path / "a.jsonl", row)
        proposed = fault_of(path).split("--columns '")[1].rstrip("'")
        assert read(path, columns=columns.parse(proposed))[0] == [TURNS]


@pytest.mark.parametrize("row", [{"text": "文"}, {"text": "文", "id": "a3"}, {"text": "文", "label": 1}])
def test_plain_text_is_told(row, tmp_path):
    said = fault_of(lines(tmp_path / "a.jsonl", row))
    assert said.startswith("a.jsonl:1: plain text (keys: text")
    assert "which is for pre-training; here answers to questions are trained" in said


def test_a_text_beside_an_answer_is_none_that_is_plain(tmp_path):
    said = fault_of(lines(tmp_path / "a.jsonl", {"text": "文", "summary": "要"}))
    assert '--columns \'{"text": "instruction", "summary": "output"}\'' in said


@pytest.mark.parametrize("more", [{"label": False}, {"kto_tag": True}])
def test_good_and_bad_answers_are_told(more, tmp_path):
    path = lines(tmp_path / "a.jsonl", {"prompt": "问", "completion": "答", **more})
    assert "calls good or bad, which are for KTO" in fault_of(path)
    path = lines(tmp_path / "b.jsonl", {"prompt": "问", "completion": "答", "label": "web"})
    assert read(path)[0] == [TURNS]


# ---- empty answers


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"instruction": "问", "output": ""}, "the answer is empty"),
        ({"instruction": "问", "output": " \n"}, "the answer is empty"),
        ({"prompt": "问", "completion": ""}, "the answer is empty"),
        ({"question": "问", "answer": ""}, "the answer is empty"),
        ({"instruction": "问", "output": "", "history": [["一", "1"]]}, "answer 2 of 2 is empty"),
        (
            {"messages": [{"role": "user", "content": "问"}, {"role": "assistant", "content": ""}]},
            "the answer is empty",
        ),
    ],
)
def test_an_empty_answer_is_a_bad_row_unless_it_is_allowed(row, said, tmp_path):
    path = lines(
        tmp_path / "a.jsonl", row, row | {"output": "答", "completion": "答", "answer": "答", "messages": TURN}
    )
    if "question" in row or "messages" in row or "prompt" in row:
        path = lines(tmp_path / "a.jsonl", row)
    expected = f"a.jsonl:1 row 0: {said}; write it, or leave the row out (--bad_rows drop)"
    assert fault_of(path) == expected or expected in fault_of(path)
    found, _ = read(path, allow_empty_answers=True)
    assert found[0][-1].trained


def test_an_empty_answer_is_dropped_with_its_reason(tmp_path):
    rows = [{"instruction": "问", "output": output} for output in ("答", "", "答")]
    reading = Reader([lines(tmp_path / "a.jsonl", *rows)], ReadOptions(bad_rows=BadRows.DROP))
    assert len(list(reading.records())) == 2
    assert [one.reason for one in reading.dropped] == [
        "the answer is empty; write it, or leave the row out (--bad_rows drop)"
    ]


def test_an_empty_answer_that_is_only_read_is_no_fault(tmp_path):
    turns = [{**TURN[0]}, {"role": "assistant", "content": "", "train": False}, *TURN]
    assert len(read(lines(tmp_path / "a.jsonl", {"messages": turns}))[0]) == 1
