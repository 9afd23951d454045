"""What is taught of an answer, against what transformers renders and tokenises of the same turns."""

import copy
import functools
import json

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests import served_templates, tiny
from tests.dialogues import controlled, records, shown, turns
from yangtuo.config.choices import History, Truncation
from yangtuo.data.chat_template import ChatTemplate
from yangtuo.data.encoding import EncodingOptions, encode, prompt_ids
from yangtuo.data.examples import RowOutcome
from yangtuo.data.records import Record, Turn
from yangtuo.data.template_choice import choose_template
from yangtuo.data.templates import TemplateFault
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.errors import DataError, TokenizerError, UsageError

CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "北京"}}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
NAMES = {"bos_token": "<s>", "eos_token": "</s>"}


def user(text):
    return Turn("user", text, trained=False)


def answer(text, thought="", calls=()):
    more = {**({"reasoning_content": thought} if thought else {}), **({"tool_calls": list(calls)} if calls else {})}
    return Turn("assistant", text, True, 1.0, more or None)


PLAIN = {
    "one": turns("问一", "答一"),
    "three": turns("问一", "答一", "问二", "答二", "问三", "答三"),
    "system": turns("问一", "答一", "问二", "答二", system="要简短。"),
}
THOUGHTS = {
    "in the text": (user("问一"), answer("<think>\n想一。\n</think>\n\n答一"), user("问二"), answer("答二")),
    "beside it": (user("问一"), answer("答一", "想一。"), user("问二"), answer("答二", "想\n二。")),
}
TOOLS = {
    "a call": (user("天气？"), answer("", calls=[CALL]), Turn("tool", '{"t": 20}', False), answer("二十度。")),
    "a call, then a question": (
        *(user("天气？"), answer("", calls=[CALL]), Turn("tool", '{"t": 20}', False), answer("二十度。")),
        *(user("谢谢"), answer("不谢。")),
    ),
}


@pytest.fixture(scope="module")
def pair_of(tmp_path_factory):
    """A chat template by name, with a byte-level tokenizer that has the control tokens of all of them."""
    return functools.cache(lambda name: Pair(made_folder(tmp_path_factory.mktemp("t"), served_templates.ALL[name])))


def made_folder(path, source, more=(), **strips):
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        tiny.SENTENCES, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    made.add_special_tokens(
        [AddedToken(text, normalized=False, **strips) for text in ("<s>", "</s>", *served_templates.CONTROLS, *more)]
    )
    made.add_tokens([AddedToken(text, normalized=False) for text in served_templates.WORDS])
    made.save(str(path / "tokenizer.json"))
    config = {**NAMES, "chat_template": source, "tokenizer_class": "PreTrainedTokenizerFast"}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


class Pair:
    """A template as it is used here, and transformers' tokenizer with it."""

    def __init__(self, path, kwargs=None):
        self.tokenizer, self.theirs = open_tokenizer(path), PreTrainedTokenizerFast.from_pretrained(path)
        self.template, _ = choose_template("tokenizer", self.tokenizer, None, kwargs)
        self.kwargs = dict(kwargs or {})

    def encoded(self, dialogue, tools=(), **options):
        record = Record("rows.json", 0, tuple(dialogue), tuple(tools))
        return encode([record], self.tokenizer, EncodingOptions(self.template, 10_000, **options))[0]

    def ids(self, text):
        return self.theirs(text, add_special_tokens=False)["input_ids"]

    def rendered(self, dialogue, tools=(), *, add_generation_prompt=False, **more):
        """By transformers."""
        messages = [{"role": turn.role, "content": turn.text, **(turn.more or {})} for turn in dialogue]
        return self.theirs.apply_chat_template(
            messages,
            tools=list(tools) or None,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            **{**self.kwargs, **more},
        )


def spans(examples):
    """Of each trained answer: the ids before it, and its own."""
    found = []
    for i in range(len(examples)):
        ids, supervised = examples.row(i)
        edges = [k for k in range(1, len(ids)) if supervised[k] != supervised[k - 1]]
        for begin, behind in zip(edges[::2], [*edges[1::2], len(ids)], strict=False):
            found.append((ids[:begin].tolist(), ids[begin:behind].tolist()))
    return found


# What a server renders begins with the prompt, and ends with the answer; of the others see below.
AS_RENDERED = [name for name in served_templates.ALL if name not in ("r1", "deepseek v3.1", "glm-4.5", "minicpm")]


def assert_as_rendered(pair, dialogue, tools=()):
    found = spans(pair.encoded(dialogue, tools))
    places = [i for i, turn in enumerate(dialogue) if turn.role == "assistant"]
    assert len(found) == len(places)
    for (before, taught), i in zip(found, places, strict=True):
        more = {}
        if not pair.rendered(dialogue[: i + 1], tools).startswith(
            pair.rendered(dialogue[:i], tools, add_generation_prompt=True)
        ):
            more = {"enable_thinking": True}
        prompt = pair.ids(pair.rendered(dialogue[:i], tools, add_generation_prompt=True, **more))
        whole = pair.ids(pair.rendered(dialogue[: i + 1], tools, **more))
        assert before[: len(prompt)] == prompt
        assert whole[: len(before) + len(taught)] == before + taught
        block = pair.tokenizer.decode(before[len(prompt) :])
        assert block.replace("<think>", "").replace("</think>", "").strip() == ""


@pytest.mark.parametrize("dialogue", ["one", "three", "system"])
@pytest.mark.parametrize("name", AS_RENDERED)
def test_a_dialogue_is_taught_in_the_ids_of_transformers(pair_of, name, dialogue):
    assert_as_rendered(pair_of(name), PLAIN[dialogue])


@pytest.mark.parametrize("dialogue", THOUGHTS.values(), ids=THOUGHTS)
@pytest.mark.parametrize("name", ["qwen3", "qwen3 thinking", "qwen3.5", "qwen3.5 off"])
def test_thoughts_are_taught_in_the_ids_of_transformers(pair_of, name, dialogue):
    assert_as_rendered(pair_of(name), dialogue)


@pytest.mark.parametrize("dialogue", TOOLS.values(), ids=TOOLS)
@pytest.mark.parametrize("name", ["qwen3", "qwen3 thinking", "qwen3.5", "qwen3.8", "llama 3.1"])
def test_calls_are_taught_in_the_ids_of_transformers(pair_of, name, dialogue):
    assert_as_rendered(pair_of(name), dialogue, [TOOL])


def test_the_comparison_sees_a_difference(pair_of):
    other = copy.copy(pair_of("qwen3"))
    other.template = pair_of("smollm").template
    with pytest.raises(AssertionError):
        assert_as_rendered(other, PLAIN["one"])


# ---- to the letter: a control token as <<its name>>, with the weight of what follows


def taught(source, dialogue, tools=(), kwargs=None, **options):
    """Each example as texts with the weight of their tokens."""
    tokenizer = controlled(*served_templates.CONTROLS, chat_template=source)
    template = ChatTemplate(source, NAMES, None, tuple(tokenizer.controls), kwargs)
    record = Record("rows.json", 0, tuple(dialogue), tuple(tools))
    examples, dropped = encode([record], tokenizer, EncodingOptions(template, 10_000, **options))
    assert dropped == []
    return [shown(examples, i, tokenizer) for i in range(len(examples))]


IM = "<<<|im_start|>>>"
END = "<<<|im_end|>>>"
R1_ASKED, R1_END = "<<<s>>><<<｜User｜>>>问<<<｜Assistant｜>>><think>\n", "<<<｜end▁of▁sentence｜>>>"


@pytest.mark.parametrize(
    ("said", "prompt", "expected"),
    [
        ("<think>\n想。\n</think>\n\n答", "", "想。\n</think>\n\n答"),
        ("想。\n</think>\n\n答", "", "想。\n</think>\n\n答"),  # as a server gives it: opened by the prompt
        ("答", "\n</think>\n\n", "答"),
    ],
)
def test_a_prompt_that_opens_the_block_is_gone_on_with(said, prompt, expected):
    assert taught(served_templates.R1, turns("问", said)) == [[(R1_ASKED + prompt, 0), (expected + R1_END, 1)]]
    asked = f"{IM}user\n问{END}\n{IM}assistant\n<think>\n"
    assert taught(served_templates.QWEN3_THINKING, turns("问", said)) == [[(asked + prompt, 0), (expected + END, 1)]]


def test_a_thought_beside_the_answer_is_written_as_the_prompt_opens_it():
    thinking = (user("问"), answer("答", "想。"))
    assert taught(served_templates.R1, thinking) == [[(R1_ASKED, 0), ("想。\n</think>\n\n答" + R1_END, 1)]]
    begin = "<<<s>>><<<｜User｜>>>问<<<｜Assistant｜>>>"
    v31 = served_templates.DEEPSEEK_V31
    assert taught(v31, thinking) == [[(begin + "<think>", 0), ("想。</think>答" + R1_END, 1)]]
    assert taught(v31, turns("问", "答")) == [[(begin + "</think>", 0), ("答" + R1_END, 1)]]
    with pytest.raises(DataError, match="the answer has a thought, and the prompt says that there is none"):
        taught(v31, thinking, kwargs={"thinking": False})


def test_a_template_without_a_place_for_thoughts_has_them_in_the_answer():
    (row,) = taught(served_templates.SMOLLM, (user("问"), answer("答", "想。")))
    assert row[1] == ("<think>\n想。\n</think>\n\n答" + END, 1)


def test_what_begins_the_next_turn_ends_an_answer_where_nothing_else_does():
    asked = "<<[gMASK]>><<<sop>>><<<|user|>>>\n问<<<|assistant|>>>"
    block = "\n<think></think>\n"
    assert taught(served_templates.GLM45, turns("问", "答", "再", "好")) == [
        [
            (asked + block, 0),
            ("答<<<|user|>>>", 1),
            ("\n再<<<|assistant|>>>" + block, 0),
            ("好<<<|user|>>>", 1),
        ]
    ]
    thinking = taught(served_templates.GLM45, (user("问"), answer("答", "想。"), user("再"), answer("好", "又。")))
    assert [row[-1] for row in thinking] == [
        ("\n<think>想。</think>\n答<<<|user|>>>", 1),
        ("\n<think>又。</think>\n好<<<|user|>>>", 1),
    ]
    assert "想" not in "".join(text for text, _ in thinking[1])
    call = taught(served_templates.GLM45, TOOLS["a call"], [TOOL])
    assert [text for text, weight in call[0] if weight] == [
        "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>北京</arg_value>\n</tool_call><<<|observation|>>>",
        "二十度。<<<|user|>>>",
    ]


def test_the_end_of_a_text_ends_an_answer_where_a_template_knows_no_end_at_all():
    assert taught(served_templates.MINICPM, turns("问", "答", "再", "好")) == [
        [("<用户>问<AI>", 0), ("答<<</s>>>", 1)],
        [("<用户>问<AI>答<用户>再<AI>", 0), ("好<<</s>>>", 1)],
    ]


def test_a_block_that_stands_behind_everything_is_part_of_the_prompt():
    off = {"enable_thinking": False}
    assert taught(served_templates.HUNYUAN, turns("问", "答"), kwargs=off) == [
        [("<<<|startoftext|>>>问<<<|extra_0|>>><think>\n\n</think>\n", 0), ("答<<<|eos|>>>", 1)]
    ]


def test_rows_whose_settings_the_template_does_not_use_are_counted(pair_of):
    pair = pair_of("qwen3")
    used, unused = ({"enable_thinking": False}, {"enable_thinking": False, "xml_tools": []})
    rows = [Record("rows.json", i, turns("问", "答"), (), more) for i, more in enumerate((None, used, unused))]
    examples, _ = encode(rows, pair.tokenizer, EncodingOptions(pair.template, 10_000))
    assert [int(one) & RowOutcome.UNUSED_KWARGS for one in examples.outcomes] == [0, 0, RowOutcome.UNUSED_KWARGS]


def test_an_end_of_the_text_behind_the_end_of_the_answer_is_not_taught():
    rows = taught(served_templates.PHI3, turns("问", "答", "再", "好"))
    assert [text for text, weight in rows[0] if weight] == ["答<<<|end|>>>", "好<<<|end|>>>"]


@pytest.mark.parametrize("strips", [{}, {"rstrip": True}, {"lstrip": True}, {"lstrip": True, "rstrip": True}], ids=str)
@pytest.mark.parametrize("name", ["phi-3", "llama 3.1", "smollm", "gemma"])
def test_blanks_beside_tokens_that_swallow_them_are_swallowed(tmp_path, name, strips):
    pair = Pair(made_folder(tmp_path, served_templates.ALL[name], **strips))
    dialogue = turns(" 问 一\t", "\u3000答\n\n一 ", "\n问二", "答二\n", "\x1f问三\x1f", "答 三\u2009")
    (example,) = {tuple(pair.encoded(dialogue).row(0)[0].tolist())}
    theirs = tuple(pair.ids(pair.rendered(dialogue)))
    end = pair.tokenizer.id_of(pair.template.end) if pair.template.end else pair.tokenizer.eos_id
    assert example == theirs[: len(theirs) - theirs[::-1].index(end)]
    assert prompt_ids(pair.tokenizer, pair.template, dialogue[:-1]) == pair.ids(
        pair.rendered(dialogue[:-1], add_generation_prompt=True)
    )


def test_thoughts_that_stay_in_the_history_keep_a_dialogue_one_example():
    (row,) = taught(served_templates.QWEN38, (user("问"), answer("答", "想。"), user("再"), answer("好")))
    asked = f"{END}\n{IM}assistant\n<think>\n"
    assert row == [
        (f"{IM}user\n问{asked}", 0),
        (f"想。\n</think>\n\n答{END}", 1),
        (f"\n{IM}user\n再{asked}\n</think>\n\n", 0),
        (f"好{END}", 1),
    ]
    # A thought in the text is put beside it, where the template would write an empty block before it.
    (same,) = taught(
        served_templates.QWEN38, (user("问"), answer("<think>\n想。\n</think>\n\n答"), user("再"), answer("好"))
    )
    assert same == row


def test_a_thought_is_asked_for_where_the_template_has_a_switch_that_is_off():
    asked = f"{IM}user\n问{END}\n{IM}assistant\n<think>\n"
    off = served_templates.QWEN35_OFF
    assert taught(off, (user("问"), answer("答", "想。"))) == [[(asked, 0), (f"想。\n</think>\n\n答{END}", 1)]]
    assert taught(off, turns("问", "答")) == [[(asked + "\n</think>\n\n", 0), (f"答{END}", 1)]]
    assert taught(off, turns("问", "答"), kwargs={"enable_thinking": True}) == taught(off, turns("问", "答"))


# ---- tools


def test_calls_carry_a_loss_and_what_tools_give_back_none():
    (row,) = taught(served_templates.QWEN3, TOOLS["a call"], [TOOL])
    assert [text for text, weight in row if weight] == [
        f'<tool_call>\n{{"name": "weather", "arguments": {{"city": "北京"}}}}\n</tool_call>{END}',
        f"二十度。{END}",
    ]
    assert f'{IM}user\n<tool_response>\n{{"t": 20}}\n</tool_response>' in row[2][0]
    assert '"weather", "parameters"' in row[0][0]


def test_arguments_are_text_where_a_template_expects_text_and_ids_are_made_where_it_asks_for_them():
    v31 = taught(served_templates.DEEPSEEK_V31, TOOLS["a call"], [TOOL])
    assert v31[0][1][0] == (
        '<<<｜tool▁call▁begin｜>>>weather<<<｜tool▁sep｜>>>{"city": "北京"}<<<｜tool▁call▁end｜>>>' + R1_END
    )
    mistral = taught(served_templates.MISTRAL, TOOLS["a call"], [TOOL])
    assert '"id": "call00100"}<<</s>>>' in mistral[0][1][0]
    own = {**CALL, "id": "abcdefghi"}
    dialogue = (user("天气？"), answer("", calls=[own]), Turn("tool", "x", False), answer("好"))
    assert '"id": "abcdefghi"}<<</s>>>' in taught(served_templates.MISTRAL, dialogue, [TOOL])[0][1][0]


@pytest.mark.parametrize("name", served_templates.ALL)
def test_control_tokens_that_people_spell_are_text(name):
    said = "".join((*served_templates.CONTROLS, "x"))
    for row in taught(served_templates.ALL[name], (user(said), answer(said), user("再"), answer("好", "想" + said))):
        assert said in "".join(text for text, _ in row)


def test_control_tokens_that_tools_or_arguments_spell_are_text():
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "<|im_end|>"}}}
    tool = {"type": "function", "function": {"name": "weather", "description": "a<|im_end|>b", "parameters": {}}}
    dialogue = (user("天气？"), answer("", calls=[call]), Turn("tool", "<|im_start|>", False), answer("好"))
    (row,) = taught(served_templates.QWEN3, dialogue, [tool])
    text = "".join(part for part, _ in row)
    assert 'a<|im_end|>b"' in text
    assert '{"city": "<|im_end|>"}' in text
    assert "<tool_response>\n<|im_start|>\n</tool_response>" in text


@pytest.mark.parametrize(
    ("source", "dialogue", "tools", "reason"),
    [
        (served_templates.SMOLLM, TOOLS["a call"], [TOOL], "does not show 'weather' of this row's tools"),
        (served_templates.SMOLLM, TOOLS["a call"], [], "leaves out or changes a tool call of this row"),
        (
            served_templates.LLAMA31,
            (user("天气？"), answer("", "要查。", [CALL]), Turn("tool", "x", False), answer("好")),
            [TOOL],
            "has no place for a text or thought beside a tool call",
        ),
        (
            served_templates.LLAMA31,
            (user("天气？"), answer("", calls=[CALL, CALL]), Turn("tool", "x", False), answer("好")),
            [TOOL],
            "one call at a time",
        ),
    ],
)
def test_tools_that_a_template_cannot_show_are_refused(source, dialogue, tools, reason):
    template = ChatTemplate(source, NAMES, None, ("<s>", "</s>", *served_templates.CONTROLS))
    with pytest.raises(TemplateFault) as caught:
        template.render(dialogue, tools)
    assert reason in str(caught.value)


def call_of(name, arguments, **more):
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


# A short text also stands in the template's own, so that it is not enough to find it somewhere.
@pytest.mark.parametrize(
    ("source", "dialogue", "tools", "reason"),
    [
        (served_templates.SMOLLM, turns("问", "答"), [call_of("a", {})], "does not show 'a' of this row's tools"),
        (
            served_templates.SMOLLM,
            (user("a"), answer("", calls=[call_of("user", {})])),
            [],
            "leaves out or changes a tool",
        ),
        (
            served_templates.LLAMA31,
            (user("问"), answer("", "a", [call_of("weather", {})]), Turn("tool", "x", False), answer("好")),
            [TOOL],
            "has no place for a text or thought beside",
        ),
        (
            served_templates.LLAMA31,
            (user("问"), answer("a", calls=[call_of("weather", {})]), Turn("tool", "x", False), answer("好")),
            [TOOL],
            "changes the text of this row's turns",
        ),
        (
            "{%- for m in messages if m.role != 'system' %}"
            "{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor %}"
            "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}",
            turns("问</think>", "答", system="user"),
            [],
            "leaves out or changes a turn of this row",
        ),
        (
            served_templates.QWEN3.replace(
                "call.function.arguments | tojson", "'{' + call.function.arguments.keys() | join(',')"
            ),
            (user("问"), answer("", calls=[call_of("weather", {"city": "a"})])),
            [TOOL],
            "leaves out or changes a tool call",
        ),
    ],
)
def test_a_short_text_that_is_left_out_is_refused(source, dialogue, tools, reason):
    template = ChatTemplate(source, NAMES, None, ("<s>", "</s>", *served_templates.CONTROLS))
    with pytest.raises(TemplateFault) as caught:
        template.render(dialogue, tools)
    assert reason in str(caught.value)


def test_a_short_thought_without_a_place_is_in_the_answer():
    (row,) = taught(served_templates.SMOLLM, (user("问"), answer("答案", "答")))
    assert row[1] == ("<think>\n答\n</think>\n\n答案" + END, 1)


def test_the_spelling_of_calls_is_the_templates_whatever_rows_came_before():
    own = (
        user("问"),
        answer("", calls=[{**CALL, "id": "abcdefghi"}]),
        Turn("tool", "x", False, 1.0, {"tool_call_id": "abcdefghi"}),
        answer("好"),
    )
    controls = ("<s>", "</s>", *served_templates.CONTROLS)
    alone, after = (ChatTemplate(served_templates.MISTRAL, NAMES, None, controls) for _ in range(2))
    after.render(own, [TOOL])
    assert after.render(TOOLS["a call"], [TOOL]) == alone.render(TOOLS["a call"], [TOOL])


def test_what_a_tool_gives_back_has_the_id_of_its_call():
    source = served_templates.MISTRAL.replace(
        "'[TOOL_RESULTS]' + m.content", "'[TOOL_RESULTS]' + m.tool_call_id + '=' + m.content"
    )
    two = answer("", calls=[CALL, {**CALL, "id": "abcdefghi"}])
    results = [Turn("tool", text, False) for text in ("一", "二")]
    (row,) = taught(source, (user("问"), two, *results, answer("好")), [TOOL])
    assert "[TOOL_RESULTS]>>call00100=一" in row[2][0]
    assert "[TOOL_RESULTS]>>abcdefghi=二" in row[2][0]


@pytest.mark.parametrize("marks", [("[THINK]", "[/THINK]"), ("<|channel>thought\n", "<channel|>")])
def test_marks_of_thoughts_are_control_tokens_around_a_thought_alone(marks):
    opens, closes = marks
    both = opens + closes
    call = call_of("weather", {"city": both})
    tokenizer = controlled(*served_templates.CONTROLS, "[THINK]", "[/THINK]", "<|channel>", "<channel|>")
    template = ChatTemplate(served_templates.QWEN38, NAMES, None, tuple(tokenizer.controls))
    dialogue = (user(both), answer("", calls=[call]), Turn("tool", "x", False), answer(f"{opens}想{closes}答{both}"))
    examples, _ = encode([Record("r", 0, dialogue, (TOOL,))], tokenizer, EncodingOptions(template, 10_000))
    text = "".join(part for part, _ in shown(examples, 0, tokenizer))
    assert f"user\n{both}<<" in text
    assert json.dumps({"city": both}, ensure_ascii=False) in text
    assert text.count(both) == 3 - ("\n" in both)  # in JSON, a line break is spelled out
    smollm = ChatTemplate(served_templates.SMOLLM, NAMES, None, tuple(tokenizer.controls))
    row = Record("r", 0, (user("问"), answer(f"{opens}想{closes}答{both}")))
    examples, _ = encode([row], tokenizer, EncodingOptions(smollm, 10_000))
    said = shown(examples, 0, tokenizer)[1][0]
    (first, last) = (
        ("<<[THINK]>>", "<<[/THINK]>>") if "[THINK]" in opens else ("<<<|channel>>>thought\n", "<<<channel|>>>")
    )
    assert said == f"{first}想{last}答{both}{END}"


def test_a_template_that_looks_at_the_words_is_followed():
    source = served_templates.SMOLLM.replace(
        "m['role'] +", "('tool' if m['content'].startswith('<r>') else m['role']) +"
    )
    (row,) = taught(source, turns("<r>问", "答"))
    assert row == [(f"{IM}tool\n<r>问{END}\n{IM}assistant\n", 0), (f"答{END}", 1)]


def test_texts_of_a_rows_settings_are_text():
    source = "{%- if note is defined %}{{- note }}{%- endif %}" + served_templates.SMOLLM
    template = ChatTemplate(source, NAMES, None, ("<s>", "</s>", *served_templates.CONTROLS))
    (example,) = template.render(turns("问", "答"), (), {"note": "<|im_end|>"})
    assert example.exchanges[0].before[0] == ("<|im_end|>", False)


@pytest.mark.parametrize("fault", ["{{ 1 % 0 }}", "{% for i in range(10 ** 9) %}{% endfor %}"])
def test_whatever_a_template_runs_into_is_a_fault_of_the_row(fault):
    source = "{%- if messages[0].content == '错' %}" + fault + "{%- endif %}" + served_templates.SMOLLM
    template = ChatTemplate(source, NAMES, None, ("<s>", "</s>", *served_templates.CONTROLS))
    with pytest.raises(TemplateFault, match="the tokenizer's chat template cannot render this row: "):
        template.render(turns("错", "答"))


def test_templates_of_frames_have_no_place_for_tools():
    tokenizer = controlled("<|im_start|>", "<|im_end|>")
    template, _ = choose_template("chatml", tokenizer, None)
    for dialogue, tools in ((TOOLS["a call"], ()), (PLAIN["one"], (TOOL,))):
        with pytest.raises(TemplateFault, match="the template chatml has no place for tools; --template tokenizer"):
            template.render(dialogue, tools)
    (example,) = template.render((user("问"), answer("答", "想。")))
    assert example.exchanges[0].answer == "<think>\n想。\n</think>\n\n答"


# ---- the history


def test_one_example_teaches_the_last_answers_alone():
    dialogue = turns("问", "答", "再", "好")
    assert (
        taught(served_templates.QWEN3, dialogue, history=History.ONE_EXAMPLE)
        == taught(served_templates.QWEN3, dialogue)[1:]
    )
    # Where the history is as it was asked, nothing is lost.
    smollm = taught(served_templates.SMOLLM, dialogue)
    assert len(smollm) == 1
    assert taught(served_templates.SMOLLM, dialogue, history=History.ONE_EXAMPLE) == smollm


def test_answers_that_are_not_trained_are_context_and_make_no_example():
    dialogue = turns("问", "答", "再", "好", "三", "叁", trained=[False, True, False])
    (row,) = taught(served_templates.QWEN3, dialogue)
    assert [text for text, weight in row if weight] == [f"好{END}"]
    assert "三" not in "".join(text for text, _ in row)


def test_what_happened_is_counted_by_row():
    tokenizer = controlled(*served_templates.CONTROLS)
    template = ChatTemplate(served_templates.QWEN3, NAMES, None, tuple(tokenizer.controls))
    rows = records(turns("问", "答", "再", "好"), turns("问", "答"))
    examples, _ = encode(rows, tokenizer, EncodingOptions(template, 10_000))
    assert examples.rows.tolist() == [0, 0, 1]
    assert (len(examples), examples.num_rows()) == (3, 2)
    assert examples.num_with(RowOutcome.EMPTY_THOUGHT) == 2
    assert examples.num_with(RowOutcome.AS_SERVED) == 1


@pytest.mark.parametrize("policy", [Truncation.DROP, Truncation.RIGHT])
def test_a_row_that_loses_an_answer_is_kept_and_no_dropped_row(policy):
    tokenizer = controlled(*served_templates.CONTROLS)
    template = ChatTemplate(served_templates.QWEN3, NAMES, None, tuple(tokenizer.controls))
    rows = records(turns("问", "答", "再" * 100, "好"), turns("问", "答"), turns("问" * 100, "答", "再", "好"))
    examples, dropped = encode(rows, tokenizer, EncodingOptions(template, 100, policy))
    assert examples.rows.tolist() == [0, 1]
    assert examples.num_with(RowOutcome.ANSWERS_LOST) == 1
    assert [one.row for one in dropped] == [2]
    with pytest.raises(DataError, match="row 0: "):
        encode(rows, tokenizer, EncodingOptions(template, 100, Truncation.ERROR))


@pytest.mark.parametrize("name", served_templates.ALL)
def test_the_prompt_of_chat_is_the_servers(pair_of, name):
    pair = pair_of(name)
    for dialogue in (PLAIN["one"], PLAIN["three"], PLAIN["system"]):
        expected = pair.ids(pair.rendered(dialogue[:-1], add_generation_prompt=True))
        assert prompt_ids(pair.tokenizer, pair.template, dialogue[:-1]) == expected


# ---- settings of the template


def test_settings_change_the_prompt_and_have_to_be_known():
    off = {"enable_thinking": False}
    (row,) = taught(served_templates.QWEN3, turns("问", "答"), kwargs=off)
    assert (
        row == taught(served_templates.QWEN3, turns("问", "答"))[0]
    )  # the block is asked for now, and read all the same
    tokenizer = controlled(*served_templates.CONTROLS, chat_template=served_templates.QWEN3)
    template, _ = choose_template("tokenizer", tokenizer, None, off)
    (asked,) = template.prompt_of([user("问")])
    assert asked.after.endswith("assistant\n<think>\n\n</think>\n\n")
    with pytest.raises(UsageError, match=r"does not use enable_thinkin; it knows: enable_thinking"):
        choose_template("tokenizer", tokenizer, None, {"enable_thinkin": False})
    with pytest.raises(UsageError, match="the template chatml takes none; --template tokenizer"):
        choose_template("chatml", tokenizer, None, off)


def test_settings_of_a_row_go_before_those_of_the_run():
    tokenizer = controlled(*served_templates.CONTROLS)
    template = ChatTemplate(served_templates.DEEPSEEK_V31, NAMES, None, tuple(tokenizer.controls), {"thinking": True})
    opened, closed = (template.render(turns("问", "答"), (), more) for more in (None, {"thinking": False}))
    assert (opened[0].exchanges[0].empty_thought, closed[0].exchanges[0].empty_thought) == ("</think>", "")


def test_a_template_that_writes_the_day_is_told_one():
    source = "{{- strftime_now('%Y-%m-%d') }}" + served_templates.SMOLLM
    tokenizer = controlled(*served_templates.CONTROLS, chat_template=source)
    with pytest.raises(TokenizerError, match="it writes today's date; give a fixed one: --chat_template_kwargs"):
        choose_template("tokenizer", tokenizer, None)
    day = {"strftime_now": "2026-01-31"}
    assert choose_template("tokenizer", tokenizer, None, day)[0].kwargs == day
    (row,) = taught(source, turns("问", "答"), kwargs=day)
    assert row[0][0].startswith("2026-01-31<<<|im_start|>>>")


def test_a_dialogue_whose_trained_answer_is_cut_away_is_dropped():
    """Also where the template renders what is left otherwise than in the frames of the whole."""
    tokenizer = controlled(*served_templates.CONTROLS)
    source = "{%- if messages[0].content == '再' %}{{- '末' }}{%- endif %}" + served_templates.SMOLLM
    template = ChatTemplate(source, NAMES, None, tuple(tokenizer.controls))
    rows = records(turns("问" * 200, "答", "再", "尾", trained=[True, False]), turns("问", "答"))
    examples, dropped = encode(rows, tokenizer, EncodingOptions(template, 100))
    assert examples.rows.tolist() == [1]
    assert [one.row for one in dropped] == [0]
