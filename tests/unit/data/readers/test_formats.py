"""What rows of each format become, and what is said of those that become nothing."""

# ruff: noqa: E501  # tables of messages

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yangtuo.config.choices import DataFormat
from yangtuo.data.readers.formats import turns_of, unused_columns
from yangtuo.data.readers.json_rows import Doubled
from yangtuo.data.readers.shown import shown
from yangtuo.data.records import Turn

ALPACA, SHAREGPT, MESSAGES, PROMPTS = (
    DataFormat.ALPACA,
    DataFormat.SHAREGPT,
    DataFormat.MESSAGES,
    DataFormat.PROMPT_COMPLETION,
)
USER, ANSWER = Turn("user", "问", trained=False), Turn("assistant", "答", trained=True)


def asked(text="问"):
    return {"role": "user", "content": text}


def answered(text="答", **more):
    return {"role": "assistant", "content": text, **more}


def turns(row, data_format=MESSAGES):
    made, faults = turns_of(row, data_format)
    assert faults == []
    return made


def faults(row, data_format=MESSAGES):
    made, found = turns_of(row, data_format)
    assert made == ()
    assert found
    return found


# ---- Alpaca


@pytest.mark.parametrize(
    ("row", "user"),
    [
        ({"instruction": "问", "output": "答"}, "问"),
        ({"instruction": "问", "input": None, "output": "答"}, "问"),
        ({"instruction": "问", "input": "", "output": "答"}, "问"),
        ({"instruction": "问", "input": "材料", "output": "答"}, "问\n材料"),
        ({"instruction": "问", "input": " ", "output": "答"}, "问\n "),
        ({"instruction": " 问\n", "input": "材料\n", "output": "答"}, " 问\n\n材料\n"),
        ({"instruction": "问", "output": "答", "id": 7}, "问"),
        ({"instruction": "问", "input": "材料", "output": "答", "history": []}, "问\n材料"),
        ({"instruction": "问", "input": None, "output": "答", "system": None, "history": None, "weight": None}, "问"),
    ],
)
def test_input_is_joined_where_there_is_one(row, user):
    assert turns(row, ALPACA) == (Turn("user", user, trained=False), ANSWER)


def test_an_empty_answer_is_text():
    assert turns({"instruction": "问", "output": ""}, ALPACA)[1].text == ""


def test_system_and_history_come_first_and_old_answers_are_trained():
    row = {"instruction": "三", "output": "3", "system": "短", "history": [["一", "1"], ["二", "2"]]}
    assert turns(row, ALPACA) == (
        Turn("system", "短", trained=False),
        Turn("user", "一", trained=False),
        Turn("assistant", "1", trained=True),
        Turn("user", "二", trained=False),
        Turn("assistant", "2", trained=True),
        Turn("user", "三", trained=False),
        Turn("assistant", "3", trained=True),
    )


FIELD_FAULTS = [
    ({"output": "b"}, "no 'instruction' (keys: output); expected a text that is not empty"),
    ({}, "no 'instruction' (keys: none); expected a text that is not empty"),
    ({"instruction": "a"}, "no 'output' (keys: instruction); expected a text"),
    ({"instruction": None, "output": "b"}, "'instruction' is null; expected a text that is not empty"),
    ({"instruction": "", "output": "b"}, "'instruction' is empty; expected a text that is not empty"),
    ({"instruction": " \n", "output": "b"}, "'instruction' is empty; expected a text that is not empty"),
    ({"instruction": "a", "output": None}, "'output' is null; expected a text"),
    ({"instruction": "a", "output": 3}, "'output' is a number, 3; expected a text"),
    ({"instruction": "a", "output": 1.5}, "'output' is a number, 1.5; expected a text"),
    ({"instruction": "a", "output": float("nan")}, "'output' is a number, NaN; expected a text"),
    ({"instruction": "a", "output": True}, "'output' is a boolean, true; expected a text"),
    ({"instruction": "a", "output": ["答"]}, "'output' is a list, [\"答\"]; expected a text"),
    ({"instruction": "a", "output": {"x": 1}}, "'output' is an object, {\"x\": 1}; expected a text"),
    ({"instruction": "a", "output": ["答" * 90]}, f"'output' is a list, [\"{'答' * 55}...; expected a text"),
    ({"instruction": "a", "output": b"x"}, "'output' is of type bytes, \"b'x'\"; expected a text"),
    ({"instruction": "a", "output": "b", "input": 0}, "'input' is a number, 0; expected a text, null or no input"),
    ({"instruction": "a", "output": "b", "input": []}, "'input' is a list, []; expected a text, null or no input"),
    (
        {"instruction": "a", "output": "b", "input": False},
        "'input' is a boolean, false; expected a text, null or no input",
    ),
    ({"instruction": "a", "output": "b", "system": 1}, "'system' is a number, 1; expected a text, null or no system"),
    (
        {"instruction": "\ud800", "output": "b"},
        "'instruction' has half of a surrogate pair, which is no character; expected a text that is not empty",
    ),
    (
        {"instruction": "a", "output": "b", "input": "\udfff"},
        "'input' has half of a surrogate pair, which is no character; expected a text",
    ),
    (
        {"instruction": "a", "output": "b", "history": "x"},
        "'history' is a text, \"x\"; expected pairs of texts, question and answer, in a list",
    ),
    (
        {"instruction": "a", "output": "b", "history": 0},
        "'history' is a number, 0; expected pairs of texts, question and answer, in a list",
    ),
    (
        {"instruction": "a", "output": "b", "history": [["x", "y"], ["x"]]},
        "'history[1]' is a list, [\"x\"]; expected pairs of texts, question and answer",
    ),
    (
        {"instruction": "a", "output": "b", "history": [["x", "\ud800"]]},
        "'history[0]' has half of a surrogate pair, which is no character; expected pairs of texts, question and answer",
    ),
    (
        {"instruction": "a", "output": "b", "history": [[" ", "y"]]},
        "'history[0]' has an empty question; expected pairs of texts, question and answer",
    ),
]


@pytest.mark.parametrize(("row", "fault"), FIELD_FAULTS, ids=range(len(FIELD_FAULTS)))
def test_a_bad_field_is_named_with_its_value_and_the_rule(row, fault):
    assert faults(row, ALPACA)[0] == fault


def test_all_faults_of_a_row_are_named():
    assert (
        len(faults({"instruction": 1, "output": 2, "input": 3, "system": 4, "history": 5, "weight": "6"}, ALPACA)) == 6
    )


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("a", 'expected an object, found a text, "a"'),
        ([1], "expected an object, found a list, [1]"),
        (None, "expected an object, found null"),
        (1.5, "expected an object, found a number, 1.5"),
        (True, "expected an object, found a boolean, true"),
    ],
)
def test_a_row_that_is_no_object(content, fault):
    assert faults(content) == [fault]


def test_a_key_that_stands_twice_is_a_fault_of_the_row_and_of_a_turn():
    row = Doubled(instruction="a", output="b")
    row.key = "output"
    assert faults(row, ALPACA) == ["the key 'output' stands twice; keep one of them"]
    turn = Doubled(answered())
    turn.key = "content"
    assert faults({"messages": [asked(), turn]}) == ["messages[1]: the key 'content' stands twice; keep one of them"]


# ---- dialogues


@pytest.mark.parametrize("role", ["assistant", "gpt", "GPT", "bot", "model", "chatgpt"])
@pytest.mark.parametrize("asker", ["user", "human", "Human"])
def test_roles_have_several_names(role, asker):
    row = {"conversations": [{"from": asker, "value": "问"}, {"from": role, "value": "答"}]}
    assert turns(row, SHAREGPT) == (USER, ANSWER)


def test_turns_may_be_spelt_in_either_way_in_either_format():
    assert turns({"messages": [{"from": "human", "value": "问"}, answered()]}) == (USER, ANSWER)
    assert turns({"conversations": [asked(), answered()]}, SHAREGPT) == (USER, ANSWER)


def test_a_system_turn_comes_from_the_list_or_from_its_own_column():
    system = Turn("system", "短", trained=False)
    assert turns({"messages": [{"role": "system", "content": "短"}, asked(), answered()]}) == (system, USER, ANSWER)
    assert turns({"system": "短", "messages": [asked(), answered()]}) == (system, USER, ANSWER)


@pytest.mark.parametrize(
    ("row", "data_format"),
    [
        ({"instruction": "问", "output": "答"}, ALPACA),
        ({"instruction": "问", "output": "答", "history": []}, ALPACA),
        ({"prompt": "问", "completion": "答"}, DataFormat.PROMPT_COMPLETION),
        ({"prompt": [{"role": "user", "content": "问"}], "completion": [answered()]}, DataFormat.PROMPT_COMPLETION),
        ({"messages": [asked(), answered()]}, DataFormat.MESSAGES),
        ({"conversations": [{"from": "human", "value": "问"}, {"from": "gpt", "value": "答"}]}, SHAREGPT),
    ],
)
def test_an_empty_system_prompt_is_one_and_null_is_none(row, data_format):
    assert turns({**row, "system": ""}, data_format)[0] == Turn("system", "", trained=False)
    assert turns({**row, "system": None}, data_format) == turns(row, data_format)
    assert [turn.role for turn in turns(row, data_format)] == ["user", "assistant"]


def test_an_empty_column_beside_a_system_turn_says_nothing():
    told = {"messages": [{"role": "system", "content": "短"}, asked(), answered()]}
    assert turns({**told, "system": ""}) == turns(told)
    empty = {"messages": [{"role": "system", "content": ""}, asked(), answered()]}
    assert turns({**empty, "system": ""}) == turns(empty) == (Turn("system", "", trained=False), USER, ANSWER)
    fault = faults({"system": "", "messages": [asked(), asked()]}, DataFormat.MESSAGES)
    assert fault == [f"messages[1] is a turn of the user; expected assistant: {ORDER}"]


def test_a_turn_may_say_that_it_is_not_trained():
    row = {"messages": [asked(), answered(train=False), asked(), answered(train=None)]}
    assert [turn.trained for turn in turns(row)] == [False, False, False, True]


def test_weights_of_row_and_turn_are_multiplied():
    row = {"messages": [asked(), answered(weight=0.5), asked(), answered(weight=0), asked(), answered()], "weight": 3}
    assert [(turn.trained, turn.weight) for turn in turns(row) if turn.role == "assistant"] == [
        (True, 1.5),
        (False, 0),
        (True, 3),
    ]
    assert turns({"instruction": "问", "output": "答", "weight": 2}, ALPACA)[1].weight == 2


@pytest.mark.parametrize("weight", [-1, "2", True, float("nan"), float("inf"), 10**400, 1_000_001, [1]])
def test_a_weight_is_a_number_within_bounds(weight):
    (fault,) = faults({"messages": [asked(), answered()], "weight": weight})
    assert fault.startswith("'weight' is ")
    assert fault.endswith("; expected a number from 0 to 1,000,000")
    (fault,) = faults({"messages": [asked(), answered(weight=weight)]})
    assert fault.startswith("messages[1]: 'weight' is ")


@pytest.mark.parametrize(
    "row", [{"weight": 0}, {"messages": [asked(), answered(train=False)]}, {"messages": [asked(), answered(weight=0)]}]
)
def test_a_row_without_a_trained_answer_is_a_fault(row):
    assert faults({"messages": [asked(), answered()], **row}) == [
        'no answer of it is trained ("train": false, or weight 0); remove the row'
    ]


def test_null_is_as_good_as_nothing_where_something_may_be_left_out():
    turn = {"train": None, "weight": None, "tool_calls": None}
    row = {"messages": [asked() | turn, answered() | turn], "system": None, "weight": None}
    assert turns(row) == (USER, ANSWER)


ORDER = "at most one system turn at the start, then user and assistant in turn, with turns of tools behind their calls"
ROLES = (
    "system, developer, user, human, assistant, gpt, bot, model, chatgpt, function_call, tool_call, "
    "tool, observation, function, ipython, tool_response"
)
DIALOGUE_FAULTS = [
    ({}, "no 'messages' (keys: none); expected a list of turns"),
    ({"messages": None}, "'messages' is null; expected a list of turns that is not empty"),
    ({"messages": []}, "'messages' is a list, []; expected a list of turns that is not empty"),
    ({"messages": "[]"}, "'messages' is a text, \"[]\"; expected a list of turns that is not empty"),
    ({"messages": ["x"]}, 'messages[0] is a text, "x"; expected an object with role and content'),
    (
        {"messages": [{"content": "a"}]},
        f"messages[0]: 'role' is not there (keys: content); expected one of {ROLES}",
    ),
    (
        {"messages": [{"role": "narrator", "content": "a"}]},
        f"messages[0]: 'role' is \"narrator\"; expected one of {ROLES}",
    ),
    (
        {"messages": [{"role": 3, "content": "a"}]},
        f"messages[0]: 'role' is 3; expected one of {ROLES}",
    ),
    ({"messages": [asked(" ")]}, "messages[0]: 'content' is empty; expected a text"),
    (
        {"messages": [asked([{"type": "text"}])]},
        'messages[0]: \'content\' is a list, [{"type": "text"}]; expected a text',
    ),
    ({"messages": [{"role": "user"}]}, "messages[0]: no 'content' (keys: role); expected a text"),
    (
        {"messages": [asked(), answered(tool_calls=[{}])]},
        "messages[1]: 'tool_calls', call 1, is an object, {}; "
        'expected {"name": ..., "arguments": {...}}, or a list of such',
    ),
    ({"messages": [asked(), answered(train="no")]}, "messages[1]: 'train' is \"no\"; expected true or false"),
    (
        {"messages": [asked() | {"train": True}, answered()]},
        "messages[0]: 'train' is true for a turn of the user; only answers can be trained",
    ),
    (
        {"messages": [asked()]},
        "messages[0], the last turn, is the user's, and nothing answers it; remove it or add the answer",
    ),
    ({"messages": [answered()]}, f"messages[0] is a turn of the assistant; expected user: {ORDER}"),
    (
        {"messages": [asked(), asked(), answered()]},
        f"messages[1] is a turn of the user; expected assistant: {ORDER}",
    ),
    (
        {"system": "s", "messages": [asked(), answered(), answered()]},
        f"messages[2] is a turn of the assistant; expected user or tool: {ORDER}",
    ),
    (
        {"system": "s", "messages": [{"role": "system", "content": "t"}, asked(), answered()]},
        f"messages[0] is a turn of the system; expected user: {ORDER}",
    ),
    ({"messages": [{"role": "system", "content": "t"}]}, "no turn of the user and the assistant"),
    ({"messages": [asked(), answered()], "system": []}, "'system' is a list, []; expected a text, null or no system"),
]


@pytest.mark.parametrize(("row", "fault"), DIALOGUE_FAULTS, ids=range(len(DIALOGUE_FAULTS)))
def test_a_fault_of_a_dialogue_is_named_with_its_turn(row, fault):
    assert faults(row)[0] == fault


# ---- prompt and completion


def test_prompt_and_completion_are_texts_or_turns():
    assert turns({"prompt": "问", "completion": "答"}, PROMPTS) == (USER, ANSWER)
    assert turns({"prompt": [asked()], "completion": [answered()]}, PROMPTS) == (USER, ANSWER)
    context = {"prompt": [asked(), answered("旧"), asked()], "completion": [answered()], "system": "短"}
    assert turns(context, PROMPTS) == (
        Turn("system", "短", trained=False),
        USER,
        Turn("assistant", "旧", trained=False),
        USER,
        ANSWER,
    )


def test_a_fault_in_prompts():
    assert faults({"prompt": "", "completion": 3}, PROMPTS) == [
        "'prompt' is empty; expected a text that is not empty",
        "'completion' is a number, 3; expected a text",
    ]
    assert faults({"prompt": [asked()], "completion": [asked()]}, PROMPTS) == [
        f"completion[0] is a turn of the user; expected assistant: {ORDER}"
    ]
    assert "'prompt' is a list" in faults({"prompt": [asked()], "completion": "答"}, PROMPTS)[0]


# ---- the rest


def test_columns_that_nothing_is_made_of_are_named():
    row = {"messages": [asked() | {"id": 1}, answered(name="x")], "source": "web", "output": "x", "a\nb": 1, "": 2}
    assert unused_columns(row, MESSAGES) == {"messages[].id", "messages[].name", "source", "output", "a\\nb", '""'}
    assert unused_columns({"instruction": "a", "output": "b", "messages": 3}, ALPACA) == {"messages"}
    assert unused_columns({"prompt": [asked() | {"id": 1}], "completion": "x"}, PROMPTS) == {"prompt[].id"}


def test_a_message_stays_one_short_line_that_can_be_saved():
    row = {f"键{i}\n\ud800\x1b": "x" * 1_000 for i in range(1_000)}
    (said, _) = faults(row, ALPACA)
    assert said.isprintable()
    assert "键0\\n\\ud800\\x1b" in said
    assert "and 992 more" in said
    assert len(said) < 300


def test_a_value_that_is_nested_too_deeply_to_be_shown_is_a_fault_all_the_same():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert faults({"instruction": "a", "output": deep}, ALPACA) == ["'output' is a list, ...; expected a text"]


@given(st.text(st.characters(exclude_categories=[])))
def test_what_is_shown_can_be_printed_and_saved(text):
    said = shown(text)
    assert said.isprintable()
    assert said.encode()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=[]), max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *[
                        "role",
                        "content",
                        "from",
                        "value",
                        "train",
                        "weight",
                        "x",
                        "tool_calls",
                        "tools",
                        "reasoning",
                        "name",
                    ]
                ]
            ),
            inner,
            max_size=4,
        )
    ),
)
KEYS = [
    "instruction",
    "input",
    "output",
    "system",
    "history",
    "weight",
    "messages",
    "conversations",
    "prompt",
    "completion",
]


@given(st.dictionaries(st.sampled_from(KEYS), JSON) | JSON, st.sampled_from(list(DataFormat)[1:]))
def test_any_json_becomes_turns_that_can_be_trained_or_faults(row, data_format):
    made, found = turns_of(row, data_format)
    assert bool(made) != bool(found)
    assert all(fault.isprintable() for fault in found)
    if made:
        json.dumps([[turn.role, turn.text] for turn in made]).encode()
        assert any(turn.trained for turn in made)
        assert made[-1].role == "assistant"
        assert all(name.isprintable() for name in unused_columns(row, data_format))


@pytest.mark.parametrize("key", ["train", "loss", "training"])
@pytest.mark.parametrize("no", [False, 0])
def test_an_answer_that_is_not_to_be_trained_says_so_in_the_words_of_several_tools(key, no):
    listed = [asked(), {**answered("坏"), key: no}, asked(), answered("好")]
    turns, found = turns_of({"messages": listed}, DataFormat.MESSAGES)
    assert found == []
    assert [turn.text for turn in turns if turn.trained] == ["好"]
    assert faults({"messages": [asked(), {**answered(), key: "no"}]}) == [
        f"messages[1]: '{key}' is \"no\"; expected true or false"
    ]


def test_words_that_contradict_each_other_are_a_fault():
    turn = {**answered(), "train": True, "loss": False}
    assert faults({"messages": [asked(), turn]}) == [
        "messages[1]: 'train' and 'loss' contradict each other; keep one of them"
    ]


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("loss_mask", 0, "which tokens carry a loss is said by"),
        ("images", ["a.png"], "pictures, sound and films cannot be trained on"),
        ("rejected", "坏", "pairs of a better and a worse answer are for DPO"),
    ],
)
def test_a_key_that_changes_what_is_meant_is_a_fault_where_it_holds_something(key, value, why):
    turn = {**answered(), key: value}
    assert faults({"messages": [asked(), turn]})[0].startswith(f"messages[1]: {key!r} is ")
    assert why in faults({"messages": [asked(), turn]})[0]
    assert why in faults({"messages": [asked(), answered()], key: value})[0]
    alpaca = {"instruction": "问", "output": "答"}
    assert why in faults(alpaca | {key: value}, DataFormat.ALPACA)[0]
    for nothing in (None, "", [], {}):
        assert turns_of({"messages": [asked(), {**answered(), key: nothing}]}, MESSAGES)[1] == []
        assert turns_of(alpaca | {key: nothing}, DataFormat.ALPACA)[1] == []
