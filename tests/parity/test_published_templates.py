"""Chat templates as models publish them, in the copies that the package trl carries.

For each answer, the prompt is what transformers renders with `add_generation_prompt`. Where the template goes on from
there as with the answer in it, prompt and answer have transformers' ids of both; where the prompt opens a thought that
the template leaves out of what was said, the answer is the thought and what follows it.
"""

import re
import sys
from pathlib import Path

import pytest

from tests.unit.data.test_as_served import CALL, PLAIN, THOUGHTS, TOOL, TOOLS, Pair, answer, made_folder, spans, user
from yangtuo.errors import DataError

FOLDER = Path(sys.prefix) / "published" / "trl" / "chat_templates"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="scripts/test.sh fetches them")
PLAIN_ONLY = ["phi3", "phi3_5", "gemma", "gemma3", "llama3", "cohere", "cohere2", "lfm2", "qwen2_5_vl", "deepseekv3"]
WITH_TOOLS = ["qwen2_5", "qwen3_instruct_2507", "qwen3_vl", "llama3_1", "llama3_2"]
THINKING = ["qwen3", "qwen3_5_think", "qwen3_5_nothink", "qwen3_6", "qwen3_8", "glm4moe", "deepseek_r1_distill"]
CONTROL = re.compile(r"<\|\w+\|>|<｜[^｜]+｜>|<(?:start|end)_of_turn>")
OPENED = ("deepseekv3", "deepseek_r1_distill")  # whose prompt opens a thought that the template never writes


@pytest.fixture
def pair(tmp_path, request):
    source = (FOLDER / f"{request.param}.jinja").read_text(encoding="utf-8")
    # Where nobody names a date, transformers writes today's.
    date = {"date_string": "26 Jul 2024"} if "date_string" in source else None
    return Pair(made_folder(tmp_path, source, CONTROL.findall(source)), date)


def assert_taught(pair, dialogue, tools=()):
    """Returns what is taught of each answer, as text."""
    found, places = (
        spans(pair.encoded(dialogue, tools)),
        [i for i, turn in enumerate(dialogue) if turn.role == "assistant"],
    )
    assert len(found) == len(places)
    said = []
    for (before, taught), i in zip(found, places, strict=True):
        for more in ({}, {"enable_thinking": True}):
            prompt = pair.rendered(dialogue[:i], tools, add_generation_prompt=True, **more)
            whole = pair.rendered(dialogue[: i + 1], tools, **more)
            if whole.startswith(prompt) and before[: len(pair.ids(prompt))] == pair.ids(prompt):
                break
        assert before[: len(pair.ids(prompt))] == pair.ids(prompt)
        if whole.startswith(prompt):
            ids, expected = before + taught, pair.ids(whole)
            # GLM-4.5 ends an answer by the token that begins the next turn.
            assert ids[: len(expected)] == expected[: len(ids)]
            assert len(ids) <= len(expected) + 1
        said.append(pair.tokenizer.decode(taught[:-1]))
    return said


def named(names):
    return pytest.mark.parametrize("pair", names, indirect=True)


@named(sorted({*PLAIN_ONLY, *WITH_TOOLS, *THINKING} - set(OPENED)))
@pytest.mark.parametrize("dialogue", ["one", "three"])
def test_answers_are_taught_as_they_are_rendered_when_they_are_asked_for(pair, dialogue):
    said = assert_taught(pair, PLAIN[dialogue])
    assert [text.removesuffix("<|END_RESPONSE|>").strip() for text in said] == [
        turn.text for turn in PLAIN[dialogue] if turn.role == "assistant"
    ]


@named(OPENED)
def test_a_prompt_that_opens_a_thought_is_gone_on_with(pair):
    assert assert_taught(pair, PLAIN["three"]) == ["答一", "答二", "答三"]
    thinking = (user("问一"), answer("<think>\n想一。\n</think>\n\n答一"), user("问二"), answer("答二", "想二。"))
    assert assert_taught(pair, thinking) == ["想一。\n</think>\n\n答一", "想二。\n</think>\n\n答二"]


def test_a_thought_in_the_text_is_put_beside_it_where_the_template_finds_it_there_alone(tmp_path):
    source = (FOLDER / "qwen3_8.jinja").read_text(encoding="utf-8")
    pair = Pair(made_folder(tmp_path, source, CONTROL.findall(source)))
    beside = (user("问一"), answer("答一", "想一。"), user("问二"), answer("答二"))
    assert spans(pair.encoded(THOUGHTS["in the text"])) == spans(pair.encoded(beside))


@named([name for name in THINKING if name not in (*OPENED, "qwen3_8")])
@pytest.mark.parametrize("dialogue", THOUGHTS.values(), ids=THOUGHTS)
def test_thoughts_are_taught_as_they_are_rendered(pair, dialogue):
    first, second = assert_taught(pair, dialogue)
    assert "想一。" in first
    assert first.endswith("答一")
    assert second.endswith("答二")
    # Of an earlier answer's thought, the later one's prompt has what the server's has.
    later = pair.rendered(dialogue[:-1], add_generation_prompt=True)
    examples = pair.encoded(dialogue)
    assert (len(examples) == 1) == ("想一。" in later)


@named([*WITH_TOOLS, *(name for name in THINKING if name not in OPENED)])
@pytest.mark.parametrize("dialogue", TOOLS.values(), ids=TOOLS)
def test_calls_are_taught_as_they_are_rendered(pair, dialogue):
    said = assert_taught(pair, dialogue, [TOOL])
    assert "weather" in said[0]
    assert "北京" in said[0]
    assert [text.strip() for text in said[1:]] == ["二十度。", "不谢。"][: len(said) - 1]


@named(["phi3", "gemma", "deepseekv3"])
def test_tools_that_a_template_has_no_place_for_are_refused(pair):
    with pytest.raises(DataError, match="weather"):
        pair.encoded(TOOLS["a call"], [TOOL])


def test_the_call_is_the_fixture_of_the_other_tests():
    assert CALL["function"]["name"] == TOOL["function"]["name"]
