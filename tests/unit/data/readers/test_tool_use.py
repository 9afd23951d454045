"""Tools, calls and thoughts of a row, in the spellings of the field: all of them are one dialogue."""

import json

import pytest

from tests.unit.data.readers.test_formats import faults
from yangtuo.config.choices import DataFormat
from yangtuo.data.readers.formats import turns_of
from yangtuo.data.readers.reader import Reader
from yangtuo.data.readers.tool_use import beside, tools_in
from yangtuo.data.records import Turn
from yangtuo.errors import DataError

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "北京"}}}
ASKED = Turn("user", "北京天气？", trained=False)
CALLED = Turn("assistant", "", True, 1.0, {"tool_calls": [CALL]})
FOUND = Turn("tool", '{"temp": 20}', trained=False)
ANSWERED = Turn("assistant", "二十度。", trained=True)
DIALOGUE = (ASKED, CALLED, FOUND, ANSWERED)
QUESTION, ANSWER = {"role": "user", "content": "北京天气？"}, {"role": "assistant", "content": "二十度。"}
ARGUMENTS = '{"city": "北京"}'


def openai(call, content=None):
    return [
        QUESTION,
        {"role": "assistant", "content": content, "tool_calls": call},
        {"role": "tool", "content": '{"temp": 20}'},
        ANSWER,
    ]


def sharegpt(caller, giver, said):
    return [
        {"from": "human", "value": "北京天气？"},
        {"from": caller, "value": said},
        {"from": giver, "value": '{"temp": 20}'},
        {"from": "gpt", "value": "二十度。"},
    ]


SPELLINGS = {
    "openai": {"messages": openai([CALL])},
    "arguments as text": {"messages": openai([{"function": {"name": "weather", "arguments": ARGUMENTS}}])},
    "calls as text": {"messages": openai(json.dumps([CALL], ensure_ascii=False))},
    "bare calls": {"messages": openai([CALL["function"]])},
    "no content": {"messages": [{k: v for k, v in turn.items() if v is not None} for turn in openai([CALL])]},
    "function_call": {
        "messages": [QUESTION, {**ANSWER, "content": "", "function_call": CALL["function"]}, *openai([])[2:]]
    },
    "llama-factory": {"conversations": sharegpt("function_call", "observation", json.dumps(CALL["function"]))},
    "ms-swift": {
        "messages": [QUESTION, {"role": "tool_call", "content": json.dumps(CALL["function"])}, *openai([])[2:]]
    },
    "a list of calls": {"conversations": sharegpt("function_call", "function", json.dumps([CALL["function"]]))},
    "an object": {"messages": [*openai([CALL])[:2], {"role": "ipython", "content": {"temp": 20}}, ANSWER]},
    "text parts": {"messages": [*openai([CALL])[:3], {**ANSWER, "content": [{"type": "text", "text": "二十度。"}]}]},
}


@pytest.mark.parametrize("row", SPELLINGS.values(), ids=SPELLINGS)
def test_the_spellings_of_the_field_are_one_dialogue(row):
    data_format = DataFormat.SHAREGPT if "conversations" in row else DataFormat.MESSAGES
    assert turns_of(row, data_format) == (DIALOGUE, [])


def test_what_is_said_before_a_call_and_calls_beside_each_other_are_one_answer():
    listed = sharegpt("function_call", "observation", json.dumps(CALL["function"]))
    listed[1:1] = [{"from": "gpt", "value": "我查一下。"}, listed[1]]
    turns, found = turns_of({"conversations": listed}, DataFormat.SHAREGPT)
    assert found == []
    said = Turn("assistant", "我查一下。", True, 1.0, {"tool_calls": [CALL, CALL]})
    assert turns == (ASKED, said, FOUND, ANSWERED)


def test_ids_and_names_of_calls_reach_the_template():
    listed = openai([{**CALL, "id": "abc"}])
    listed[2] |= {"tool_call_id": "abc", "name": "weather"}
    turns, found = turns_of({"messages": listed}, DataFormat.MESSAGES)
    assert found == []
    assert turns[1].more == {"tool_calls": [{**CALL, "id": "abc"}]}
    assert turns[2].more == {"tool_call_id": "abc", "name": "weather"}


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking", "thought"])
def test_a_thought_stands_beside_its_answer_whatever_it_is_called(key):
    more = {"reasoning_content": "想一想。"}
    thinking = Turn("assistant", "二十度。", True, 1.0, more)
    assert turns_of({"messages": [QUESTION, {**ANSWER, key: "想一想。"}]}, DataFormat.MESSAGES)[0] == (ASKED, thinking)
    alpaca = {"instruction": "北京天气？", "output": "二十度。", key: "想一想。"}
    assert turns_of(alpaca, DataFormat.ALPACA)[0] == (ASKED, thinking)
    pair = {"prompt": "北京天气？", "completion": "二十度。", key: "想一想。"}
    assert turns_of(pair, DataFormat.PROMPT_COMPLETION)[0] == (ASKED, thinking)


FAULTS = [
    ({**ANSWER, "tool_calls": [{"function": {"arguments": {}}}]}, "'tool_calls', call 1, is an object, "),
    ({**ANSWER, "tool_calls": "no json"}, "'tool_calls' is no JSON, \"no json\"; expected"),
    ({**ANSWER, "tool_calls": [{"name": "f", "arguments": "[1]"}]}, "call 1: 'arguments' is a text, \"[1]\"; expected"),
    ({**ANSWER, "tool_calls": [CALL], "function_call": CALL}, "'tool_calls' and 'function_call' are both there"),
    ({**ANSWER, "reasoning_content": 3}, "'reasoning_content' is a number, 3; expected a text, the thought"),
    ({**ANSWER, "reasoning": "a", "thought": "b"}, "'reasoning' and 'thought' contradict each other"),
    (
        {"role": "assistant", "content": "<think>\n甲\n</think>\n\n答", "reasoning_content": "乙"},
        "there is a thought beside 'content' and another inside it; keep one of them",
    ),
    (
        {**ANSWER, "tools": [TOOL]},
        "in a turn of the assistant; tools belong at the top of the row, or in its system turn",
    ),
    ({"role": "function_call", "content": "北京"}, "'content' is no JSON, \"北京\"; expected"),
]


@pytest.mark.parametrize(("turn", "fault"), FAULTS, ids=range(len(FAULTS)))
def test_what_is_wrong_with_a_call_or_a_thought(turn, fault):
    (said,) = faults({"messages": [QUESTION, turn]})
    assert said.startswith("messages[1]: ")
    assert fault in said


def test_calls_and_thoughts_are_an_answers_alone():
    (said,) = faults({"messages": [{**QUESTION, "reasoning_content": "想"}, ANSWER]})
    assert said == "messages[0]: 'reasoning_content' is \"想\" in a turn of the user; only an answer has it"
    (said,) = faults({"messages": [QUESTION, ANSWER], "reasoning_content": "想"})
    assert said == "'reasoning_content' is \"想\"; it belongs into a turn of 'messages' or 'conversations'"
    (said,) = faults({"messages": [QUESTION, {"role": "tool", "content": "x"}, ANSWER]})
    assert said.startswith("messages[1] is a turn of the tool; expected assistant: ")
    (said,) = faults({"messages": openai([CALL])[:3]})
    assert said.startswith("messages[2], the last turn, is the tool's, and nothing answers it")


# ---- tools and settings of a row


@pytest.mark.parametrize("key", ["tools", "functions"])
@pytest.mark.parametrize("spelled", [[TOOL], [TOOL["function"]], json.dumps([TOOL]), TOOL], ids=range(4))
def test_tools_are_listed_in_one_form(key, spelled):
    assert tools_in({key: spelled}) == ((TOOL,), [])


@pytest.mark.parametrize("nothing", [None, "", "[]", [], {}])
def test_no_tools_are_none(nothing):
    assert tools_in({"tools": nothing}) == ((), [])


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"tools": "no json"}, "'tools' is no JSON, \"no json\"; expected a list of objects like"),
        ({"tools": [{}]}, "'tools[0]' is an object, {}; expected a list of objects like"),
        ({"tools": ["f"]}, "'tools[0]' is a text, \"f\"; expected"),
        ({"tools": [TOOL], "functions": [TOOL]}, "'tools' and 'functions' are both there; keep one of them"),
        ({"tools": [{"name": "\ud800"}]}, "'tools' has half of a surrogate pair"),
    ],
)
def test_what_is_wrong_with_tools(row, fault):
    (said,) = tools_in(row)[1]
    assert said.startswith(fault)


def test_tools_of_the_system_turn_and_settings_of_the_template(tmp_path):
    system = {"role": "system", "content": "要简短。", "tools": [TOOL]}
    rows = [
        {"messages": [system, *openai([CALL])], "chat_template_kwargs": {"enable_thinking": False}},
        {"messages": openai([CALL]), "tools": json.dumps([TOOL]), "chat_template_kwargs": '{"a": 1}'},
        {"messages": [QUESTION, ANSWER]},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    first, second, third = Reader([path]).records()
    assert first.turns[0] == Turn("system", "要简短。", trained=False)
    assert (first.tools, first.template_kwargs) == ((TOOL,), {"enable_thinking": False})
    assert (second.tools, second.template_kwargs) == ((TOOL,), {"a": 1})
    assert (third.tools, third.template_kwargs) == ((), None)


@pytest.mark.parametrize("given", ["no", "[1]", 3, [1]])
def test_settings_of_the_template_are_an_object(given):
    (said,) = beside({"chat_template_kwargs": given}, (ASKED, ANSWERED))[3]
    assert said.startswith("'chat_template_kwargs' is ")


def test_tools_in_two_places_are_a_fault():
    system = Turn("system", "s", False, 1.0, {"tools": [TOOL]})
    assert beside({"tools": [TOOL]}, (system, ASKED, ANSWERED))[3] == [
        "tools stand in the row and in its system turn; keep one of them"
    ]


def _nested(depth):
    value = "x"
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("[" * 100_000, "is nested too deeply"),
        ({"name": "f", "arguments": _nested(5_000)}, "is nested too deeply; at most 100 levels can be rendered"),
        ({"name": "f", "arguments": {"a": "\ud800"}}, "has half of a surrogate pair, which is no character"),
        ('{"name": "f", "name": "g"}', 'is JSON in which the key \'name\' stands twice, as "f" and "g"'),
    ],
)
@pytest.mark.parametrize("key", ["tools", "tool_calls", "chat_template_kwargs", "content"])
def test_what_cannot_be_rendered_is_a_fault_of_its_key(key, value, reason):
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    if key == "tool_calls":
        row["messages"][1][key] = value
    elif key == "content":
        if isinstance(value, str):
            return  # a text
        row["messages"] += [{"role": "tool", "content": value}, row["messages"][1]]
    else:
        row[key] = value
    turns, faults = turns_of(row, DataFormat.MESSAGES)
    (said,) = faults or beside(row, turns)[3]
    assert f"{key!r} {reason}" in said


def test_a_key_that_stands_twice_in_a_tool_or_a_call_is_a_fault(tmp_path):
    path = tmp_path / "rows.jsonl"
    call = '{"name": "f", "arguments": {"a": 1, "a": 2}}'
    asked, answered = '{"role": "user", "content": "q"}', '{"role": "assistant", "content": "a", "tool_calls": [%s]}'
    path.write_text(f'{{"messages": [{asked}, {answered % call}]}}\n')
    with pytest.raises(DataError, match=r"messages\[1\]: 'tool_calls' has the key a twice; keep one of them"):
        list(Reader([path]).records())


@pytest.mark.parametrize(
    ("before", "call", "reason"),
    [
        ({"thought": "一"}, {"thought": "二"}, "its thought comes after the text of the turn before"),
        ({"train": False}, {}, "'train' or 'weight' differ"),
        ({"weight": 2}, {}, "'train' or 'weight' differ"),
    ],
)
def test_a_call_that_contradicts_the_answer_before_it_is_a_fault(before, call, reason):
    said = {"role": "assistant", "content": "a", **before}
    called = {"role": "tool_call", "content": '{"name": "f"}', **call}
    _, (fault,) = turns_of({"messages": [{"role": "user", "content": "q"}, said, called]}, DataFormat.MESSAGES)
    assert fault.startswith("messages[2]: ")
    assert reason in fault


@pytest.mark.parametrize("row", [{"reasoning_content": " \n"}, {"thought": " ", "reasoning": ""}])
def test_blanks_are_no_thought(row):
    said = {"role": "assistant", "content": "a", **row}
    turns, _ = turns_of({"messages": [{"role": "user", "content": "q"}, said]}, DataFormat.MESSAGES)
    assert turns[1].more is None
