"""What has to be whole in a text."""

import pytest

from yangtuo.data.structures import is_inside, spans_of


def wholes(text):
    """The parts that are found, in their order; those that are never closed end with an ellipsis."""
    return [text[max(begin, 0) : end] + ("…" if end > len(text) else "") for begin, end in sorted(spans_of(text))]


@pytest.mark.parametrize(
    "part",
    [
        "```python\nprint(1)\nprint([2)\n```",
        "```\n在列表里。\n   ```",
        "```py\n话后。```",
        "~~~~\n```\n~~~\n~~~~",
        '{"名": "长城", "长": [1, 2, {"a": "}]"}]}',
        '[{"a": 1},\n {"b": 2}]',
        '[\n  "一。",\n  "二。"\n]',
        "{\n  名: 1\n}",
        "[1, 2,\n3]",
        "| 名 | 数 |\n|---|---|\n| 一。 | 1 |",
        "名 | 数\n:-- | --:\n一。 | 1",
        "| 一。 | 1 |\n| 二。 | 2 |",
        "<think>\n先想。\n再想。\n</think>",
        '<tool_call>\n"x"。\n</tool_call>',
    ],
)
def test_parts_that_are_whole(part):
    assert wholes(part) == [part]
    assert wholes(f"前言。\n{part}\n后记。") == [part]
    spans = spans_of(f"前言。\n{part}\n后记。")
    begin, end = 4, 4 + len(part)
    assert [is_inside(spans, place) for place in (begin, begin + 1, end - 1, end)] == [False, True, True, False]


@pytest.mark.parametrize(
    "part",
    [
        *("```\n代码。\n", "结果：```\n代码。", "```a\n~~~\n", "<think>\n想。"),
        *('结果：{"a": ["一。", ', '[\n{"a": 1},\n{"b'),
    ],
)
def test_parts_that_are_never_closed(part):
    assert wholes(part) == [part.removeprefix("结果：") + "…"]
    assert is_inside(spans_of(part), len(part))


def test_a_thought_that_the_prompt_has_opened():
    text = "先想。\n再想。\n</think>\n\n答案。"
    assert wholes(text) == ["先想。\n再想。\n</think>"]
    assert is_inside(spans_of(text), 0)


def test_several_of_them():
    text = '<think>想。</think>\n```\n{"a": 1}\n```\n{"b": 2}\n|a|\n|-|\n|c|\n完。'
    assert wholes(text) == ["<think>想。</think>", '```\n{"a": 1}\n```', '{"b": 2}', "|a|\n|-|\n|c|"]


@pytest.mark.parametrize(
    "text",
    [
        "没有什么。只有话！",
        "集合 {a, b} 和区间 [1, 2) 在句子里。",
        r"公式 \frac{1}{2}，\[ x = 1 \]。",
        "a | b 不是表。\n下一行。",
        "`代码` 和 ```行内``` 。",
        "```行内``` 。\n`代码`。",
        "<b>不是思考</b>。",
        "| 只有一行 |\n",
        "",
    ],
)
def test_texts_with_nothing_of_it(text):
    assert wholes(text) == []


def test_a_bracket_in_a_line_of_its_own_is_closed_or_counts_for_nothing():
    assert wholes("[注：见下。\n完。") == []
    assert wholes("[链接](x)。\n[1] 引文。") == ["[链接]", "[1]"]


def test_long_texts_take_linear_time():
    for text in ('{"a": ' * 20_000, "[" * 20_000, "|" * 20_000, "```\n" * 20_001, "<think>" * 20_000, "[1]\n" * 20_000):
        spans_of(text)
