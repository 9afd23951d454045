"""Whatever a dialogue holds, what is taught of it is what a server would ask and have: against transformers' rendering.

The reference knows nothing of the product: it renders the turns with transformers, a control token that people spell
replaced by a letter, and reads the text letter by letter. Where the template goes on from the prompt as with the answer
in it, the two must be the same; a row may also be refused, in a line that says why.
"""

import json
import re

import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from tests import served_templates
from tests.dialogues import controlled, shown
from yangtuo.data.chat_template import ChatTemplate
from yangtuo.data.encoding import EncodingOptions, encode
from yangtuo.data.records import Record, Turn
from yangtuo.errors import DataError

NAMES = {"bos_token": "<s>", "eos_token": "</s>"}
SPELLED = dict(zip("ΑΒΓΔ", ("<|im_end|>", "</s>", "<｜end▁of▁sentence｜>", "<|eot_id|>"), strict=True))
CONTROLS = ("<s>", "</s>", *served_templates.CONTROLS)
_CONTROL = re.compile("|".join(map(re.escape, sorted(CONTROLS, key=len, reverse=True))))
# What a server renders begins with the prompt, and goes on with the answer.
AS_RENDERED = [name for name in served_templates.ALL if name not in ("r1", "deepseek v3.1", "glm-4.5", "minicpm")]
WITH_TOOLS = ("qwen3", "qwen3 thinking", "qwen3.5", "qwen3.5 off", "qwen3.8", "llama 3.1", "mistral")
TOOLS = [
    {"type": "function", "function": {"name": name, "description": f"Δ{name}\n", "parameters": {"type": "object"}}}
    for name in ("weather", "查", "a")
]


def spelled(value):
    """The letters that stand for control tokens as these."""
    if isinstance(value, str):
        return "".join(SPELLED.get(letter, letter) for letter in value)
    if isinstance(value, dict):
        return {spelled(key): spelled(one) for key, one in value.items()}
    return [spelled(one) for one in value] if isinstance(value, list) else value


def read(text):
    """Rendered text as `shown` writes ids: the template's control tokens in brackets, people's as they are."""
    return spelled(_CONTROL.sub(lambda found: f"<<{found.group()}>>", text))


WORDS = st.sampled_from(
    [
        "a",
        "user",
        "assistant",
        "你好",
        "q",
        "2",
        "system",
        "Α",
        "Γ x",
        "</think>",
        "<think>",
        "\ue000\ue001",
        "n",
        '"',
        "\\n",
        "{",
        "weather",
    ]
)
BLANKS = st.sampled_from(["", "", "", " ", "\n", "\n\n"])
TEXTS = st.tuples(BLANKS, st.lists(WORDS, min_size=1, max_size=3).map(" ".join), BLANKS).map("".join)
SAID = st.tuples(
    BLANKS, st.lists(WORDS.filter(lambda word: "think" not in word), max_size=3).map(" ".join), BLANKS
).map("".join)
THOUGHTS = st.just("") | SAID.filter(str.strip)  # blanks alone are none
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 10**20)
    | st.floats(allow_nan=False)
    | TEXTS
    | st.sampled_from(['{"a": 1}', "", "[]"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
CALLS = st.builds(
    lambda name, arguments: {"type": "function", "function": {"name": name, "arguments": arguments}},
    st.sampled_from(["weather", "查", "a"]),
    st.dictionaries(TEXTS, VALUES, max_size=2),
)
RESULTS = st.one_of(TEXTS, st.just(""), VALUES.map(lambda value: json.dumps(value, ensure_ascii=False)))


@st.composite
def dialogues(draw, *, with_calls=False):
    """Turns with letters for control tokens."""
    made = []
    if draw(st.booleans()):
        made.append(Turn("system", draw(TEXTS), False))
    for _ in range(draw(st.integers(1, 3))):
        made.append(Turn("user", draw(TEXTS), False))
        for _ in range(draw(st.integers(0, 2)) if with_calls else 0):
            calls = draw(st.lists(CALLS, min_size=1, max_size=2))
            made.append(answer(draw(st.just("") | SAID), draw(THOUGHTS), draw(st.booleans()), calls=calls))
            made += [Turn("tool", draw(RESULTS), False) for _ in calls]
        made.append(answer(draw(SAID), draw(THOUGHTS), draw(st.booleans()), in_text=draw(st.booleans())))
    assume(any(turn.trained for turn in made))
    return made


def answer(text, thought, trained, *, in_text=False, calls=()):
    if thought and in_text:
        return Turn("assistant", f"<think>\n{thought}\n</think>\n\n{text}", trained)
    more = {**({"reasoning_content": thought} if thought else {}), **({"tool_calls": calls} if calls else {})}
    return Turn("assistant", text, trained, 1.0, more or None)


def in_text(message):
    """A thought beside an answer put into its text, as for a template that has no place for one."""
    thought = message.get("reasoning_content")
    return (
        {**message, "content": f"<think>\n{thought.strip()}\n</think>\n\n{message['content']}"} if thought else message
    )


def beside(turn):
    """A thought in an answer's text as it stands beside it."""
    found = re.fullmatch(r"<think>(.*)</think>\n\n(.*)", turn.text, re.DOTALL)
    if not found or not found.group(1).strip():
        return turn
    return turn._replace(text=found.group(2).lstrip("\n"), more={"reasoning_content": found.group(1).strip()})


def messages_of(dialogue, *, has_ids):
    made, ids = [], []
    for number, turn in enumerate(dialogue):
        message = {"role": turn.role, "content": turn.text, **(turn.more or {})}
        if "tool_calls" in message and has_ids:
            ids = [f"call{number:03}{i:02}" for i in range(len(message["tool_calls"]))]
            message["tool_calls"] = [{"id": one, **call} for one, call in zip(ids, message["tool_calls"], strict=True)]
        if turn.role == "tool" and has_ids:
            message["tool_call_id"] = ids.pop(0)
        made.append(message)
    return made


def rendered(source, messages, tools, *, asks=False, **more):
    (text,), _ = render_jinja_template(
        conversations=[messages], tools=tools or None, chat_template=source, add_generation_prompt=asks, **NAMES, **more
    )
    return text


def taught(source, dialogue, tools):
    """Of each trained answer, what stands before it and what is taught of it; or why the row is refused."""
    tokenizer = controlled(*served_templates.CONTROLS, chat_template=source)
    template = ChatTemplate(source, NAMES, None, tuple(tokenizer.controls))
    turns = tuple(turn._replace(text=spelled(turn.text), more=spelled(turn.more)) for turn in dialogue)
    try:
        examples, _ = encode(
            [Record("rows.json", 0, turns, tuple(spelled(tools)))], tokenizer, EncodingOptions(template, 10**6)
        )
    except DataError as error:
        return str(error)
    found = []
    for i in range(len(examples)):
        before = ""
        for text, weight in shown(examples, i, tokenizer):
            if weight:
                found.append((before, text))
            before += text
    return found


def assert_as_rendered(name, dialogue, tools=()):
    source = served_templates.ALL[name]
    found = taught(source, dialogue, tools)
    event(found.rpartition(": ")[2][:60] if isinstance(found, str) else "taught")
    if isinstance(found, str):
        assert found.isprintable()
        return
    places = [i for i, turn in enumerate(dialogue) if turn.trained]
    assert len(found) == len(places)
    messages = messages_of(
        [turn if name != "qwen3.8" else beside(turn) for turn in dialogue], has_ids=name == "mistral"
    )
    for (before, said), i in zip(found, places, strict=True):
        for more in ({}, {"enable_thinking": True}):
            prompt = rendered(source, messages[:i], tools, asks=True, **more)
            answered = messages[i] if "reasoning_content" in source else in_text(messages[i])
            whole = rendered(source, [*messages[:i], answered], tools, **more)
            if before.startswith(read(prompt)):
                break
        assert before.startswith(read(prompt))
        assert whole.startswith(prompt)
        assert read(whole).startswith(before + said)
        assert said.endswith(">>")
        block = before[len(read(prompt)) :]
        assert block.replace("<think>", "").replace("</think>", "").strip() == ""
        rest = read(whole)[len(before + said) :]
        assert rest.strip() in ("", "<<</s>>>")


@pytest.mark.parametrize("name", AS_RENDERED)
@settings(deadline=None, max_examples=12)
@given(dialogue=dialogues())
def test_answers(name, dialogue):
    assert_as_rendered(name, dialogue)


@pytest.mark.parametrize("name", WITH_TOOLS)
@settings(deadline=None, max_examples=12)
@given(dialogue=dialogues(with_calls=True))
def test_calls(name, dialogue):
    assert_as_rendered(name, dialogue, TOOLS)
