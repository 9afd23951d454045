"""Whatever JSON stands wherever in a row, it is read, or refused in lines that can be printed."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from tests import served_templates
from tests.dialogues import controlled
from yangtuo.config.choices import DataFormat
from yangtuo.data.chat_template import ChatTemplate
from yangtuo.data.encoding import EncodingOptions, encode
from yangtuo.data.readers.formats import turns_of
from yangtuo.data.readers.tool_use import beside
from yangtuo.data.records import Record
from yangtuo.errors import DataError

KEYS = st.sampled_from(
    [
        *("role", "content", "tool_calls", "function_call", "name", "arguments", "function", "id", "train", "loss"),
        *("weight", "thought", "reasoning_content", "tools", "type", "text", "tool_call_id", "a\nb", ""),
    ]
)
DEEP = "[" * 100_000
TEXTS = st.sampled_from(
    ["", " ", "user", "assistant", "tool_call", "a", "\ud800", "\x1b[2J\n", "[", "{}", "null", DEEP]
)


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS, st.sampled_from([50, 150]).map(nested)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=2).map(json.dumps)
    ),
    max_leaves=8,
)
CALLS = st.fixed_dictionaries({"name": TEXTS | VALUES, "arguments": VALUES})
TURNS = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "tool_call"])},
    optional={
        **{"content": TEXTS | VALUES, "tool_calls": st.lists(CALLS, max_size=2) | VALUES, "thought": TEXTS | VALUES},
        **{"tools": st.lists(CALLS, max_size=2) | VALUES, "train": VALUES, "weight": VALUES, "name": VALUES},
    },
)
ROWS = st.fixed_dictionaries(
    {"messages": st.lists(TURNS | VALUES, max_size=5) | VALUES},
    optional={"tools": st.lists(CALLS, max_size=2) | VALUES, "chat_template_kwargs": VALUES, "weight": VALUES}
    | {"system": VALUES, "tool_calls": VALUES},
)
TOKENIZER = controlled(*served_templates.CONTROLS)
TEMPLATE = ChatTemplate(served_templates.QWEN3, {"bos_token": "<s>"}, None, tuple(TOKENIZER.controls))


@settings(deadline=None, max_examples=300)
@given(row=ROWS)
def test_any_row_is_read_or_refused(row):
    turns, faults = turns_of(row, DataFormat.MESSAGES)
    if not faults:
        turns, tools, kwargs, faults = beside(row, turns)
    if not faults:
        try:
            encode([Record("r", 0, turns, tools, kwargs)], TOKENIZER, EncodingOptions(TEMPLATE, 10_000))
        except DataError as error:
            faults = [str(error)]
    assert all(fault.isprintable() for fault in faults)
