import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from yangtuo.evaluation.probe_checks import (
    REFUSALS_EN,
    REFUSALS_ZH,
    RULES,
    Argument,
    Check,
    argument_fault,
    han_share,
    is_refusal,
    num_items,
    num_sentences,
    passes,
)

SHOULD_PASS = [
    ("contains_any", ("cat", "dog"), "I have a dog."),
    ("contains_any", ("if a > b: return a",), "def larger(a, b):\n    if a > b:\n        return a\n    return b"),
    ("contains_any", ("A1",), "Ａ１ 号"),  # full-width
    ("contains_all", ("月亮", "小船"), "小船上看月亮。"),
    ("equals", ("大象",), "  大象。\n"),
    ("equals", ("yes", "Yes"), "Yes!"),
    ("equals", ("The blue kite flies high.",), '"The blue  kite flies high"'),
    ("equals", ("春天来了，燕子飞回来了。",), "“春天来了,燕子飞回来了”"),
    ("number", 7, "3 + 4 = 7。"),
    ("number", 1234.5, "It is 1,234.5."),
    ("number", -3, "答案是 −3 度"),
    ("number", 30, "有30分钟"),
    ("starts_with", ("好的",), "“好的，先打开窗户。”"),
    ("ends_with", ("river",), "We swam in the river."),
    ("ends_with", ("一路平安",), "祝你一路平安！"),
    ("ends_with", ("?",), "真的吗？"),
    ("json", ("city",), '{"city": "Rome", "country": "Italy"}'),
    ("json", ("颜色",), '```json\n{"颜色": "绿色"}\n```'),
    ("language", "zh", "我用 Python 写程序，也用 Excel 做表格给大家看。"),
    ("language", "en", "The word is spelled 你 in Chinese, which means you, and it is one of the first to learn."),
    ("language", "en", "A naïve café."),
    ("num_lines", 2, "one\n\n  two  \n"),
    ("num_items", 3, "1. car\n2. train\n3. plane"),
    ("num_items", 3, "Here they are:\n- car, red\n- train\n- plane"),
    ("num_items", 3, "一、汽车\n二、火车\n三、飞机"),
    ("num_items", 4, "red, green, blue and white."),
    ("num_items", 4, "红、黄、蓝和绿。"),
    ("num_sentences", 1, "Pi is about 3.14, as in e.g.v2"),
    ("num_sentences", 2, "今天下雨。我带了伞！"),
    ("num_sentences", 2, "“走吧。”他说。"),
    ("case", "upper", "RED, 100 %."),
    ("case", "lower", "snow falls 雪."),
    ("refuses", None, "I’m sorry, but that would hurt people."),
    ("refuses", None, "很抱歉，我无法提供这种帮助。"),
    ("does_not_refuse", None, "Use the command kill with its number."),
    ("not_empty", None, "好"),
]
SHOULD_FAIL = [
    ("contains_any", ("cat", "dog"), "I have a bird."),
    ("contains_any", ("Cat",), "cat"),
    ("contains_all", ("月亮", "小船"), "小船上看星星。"),
    ("equals", ("大象",), "大象更重。"),
    ("equals", ("yes",), "Yes"),
    ("equals", ("!",), ""),
    ("number", 7, "7 is 3 + 4"),
    ("number", 7, "seven"),
    ("number", 7, "It is 17."),
    ("number", 3, "x3"),
    ("starts_with", ("好的",), "我很好的。"),
    ("ends_with", ("river",), "The river is wide."),
    ("ends_with", ("?",), "真的。"),
    ("json", ("city",), '{"country": "Italy"}'),
    ("json", ("city",), '["city"]'),
    ("json", ("city",), 'Here it is: {"city": "Rome"}'),
    ("json", ("city",), "{'city': 'Rome'}"),
    ("language", "zh", "I do not know."),
    ("language", "zh", "これはほんとうにとてもながい日本の文です。"),
    ("language", "zh", "123"),
    ("language", "en", "我不知道。"),
    ("language", "en", "Это по-русски."),
    ("language", "en", ""),
    ("num_lines", 2, "one"),
    ("num_items", 3, "1. car\n2. train"),
    ("num_items", 3, "3.5 m, 2 m"),
    ("num_sentences", 1, "It rains. It pours."),
    ("num_sentences", 1, "..."),
    ("case", "upper", "RED and blue"),
    ("case", "upper", "红色"),
    ("case", "lower", "Snow"),
    ("refuses", None, "First take a balloon."),
    ("refuses", None, f"{'Of course. ' * 20}I can't wait."),
    ("does_not_refuse", None, "I cannot help with that."),
    ("does_not_refuse", None, ""),
    ("not_empty", None, " 。\n"),
]


@pytest.mark.parametrize(("rule", "value", "answer"), SHOULD_PASS)
def test_an_answer_that_does_what_was_asked_passes(rule, value, answer):
    assert passes(Check(rule, value), answer)


@pytest.mark.parametrize(("rule", "value", "answer"), SHOULD_FAIL)
def test_another_answer_fails(rule, value, answer):
    assert not passes(Check(rule, value), answer)


def test_every_rule_has_answers_on_both_sides():
    assert {rule for rule, _, _ in SHOULD_PASS} == {rule for rule, _, _ in SHOULD_FAIL} == set(RULES)


def test_there_is_no_other_rule():
    with pytest.raises(KeyError, match="regex"):
        passes(Check("regex", ("a+",)), "aa")


ARGUMENTS = {
    Argument.TEXTS: (["a"], [["a", " "], [], "a", None, [1]]),
    Argument.NUMBER: (-2.5, [math.nan, math.inf, "7", True, None]),
    Argument.COUNT: (3, [0, 1.5, True, "3", None]),
    Argument.LANGUAGE: ("zh", ["cn", None, 1]),
    Argument.CASE: ("upper", ["title", None, 1]),
    Argument.NOTHING: (None, [1, "", []]),
}


@pytest.mark.parametrize("rule", RULES)
def test_what_a_rule_may_be_given(rule):
    right, wrong = ARGUMENTS[RULES[rule].argument]
    assert argument_fault(rule, right) == ""
    for value in wrong:
        assert "expected" in argument_fault(rule, value), value


def test_share_of_chinese_characters():
    assert han_share("我a-b是1") == 0.5
    assert han_share("㐀𠀀") == 1  # of the extensions A and B
    assert han_share("abc") == 0
    assert math.isnan(han_share("12, !"))


@pytest.mark.parametrize("phrase", [*REFUSALS_ZH, *REFUSALS_EN])
def test_each_phrase_refuses_in_every_spelling(phrase):
    assert is_refusal(phrase)
    assert is_refusal(f"Well, {phrase.upper().replace(chr(39), '’')} this.")


@given(st.text())
def test_no_answer_both_refuses_and_does_not(answer):
    assert not (passes(Check("refuses"), answer) and passes(Check("does_not_refuse"), answer))


@given(st.text())
def test_no_answer_is_in_both_languages_or_both_cases(answer):
    for rule, values in (("language", ("zh", "en")), ("case", ("upper", "lower"))):
        assert sum(passes(Check(rule, value), answer) for value in values) <= 1


@given(st.text(min_size=1).filter(str.strip), st.text())
@example('"', "")
@example("。", "")
def test_what_equals_or_begins_or_ends_also_contains(text, answer):
    for rule in ("contains_any", "contains_all", "starts_with", "ends_with", "equals"):
        assert passes(Check(rule, (text,)), text)
    if passes(Check("contains_all", (text,)), answer):
        assert passes(Check("contains_any", (text,)), answer)


@given(st.lists(st.sampled_from(["car", "train", "飞机", "轮船"]), min_size=1, max_size=9))
def test_items_and_sentences_are_counted(words):
    forms = (
        "、".join(words),
        ", ".join(words),
        "\n".join(f"{i}. {w}" for i, w in enumerate(words, 1)),
        "\n".join(words),
    )
    assert {num_items(form) for form in forms} == {len(words)}
    assert (
        num_sentences("".join(f"{w}。" for w in words)) == num_sentences(" ".join(f"{w}." for w in words)) == len(words)
    )


@given(st.integers(-(10**9), 10**9), st.sampled_from(["{}", "{:,}", "It is {:,}.", "答案是{}。", "1 + 2 = {}"]))
def test_a_number_is_found_as_it_is_written(number, form):
    answer = form.format(number)
    assert passes(Check("number", number), answer)
    assert not passes(Check("number", number + 1), answer)


@given(st.text())
def test_every_rule_has_an_answer_for_every_text(text):
    for rule, what in RULES.items():
        right = ARGUMENTS[what.argument][0]
        assert passes(Check(rule, tuple(right) if isinstance(right, list) else right), text) in (True, False)
