"""Scores of answers, against values worked out by hand."""

import importlib.util
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import yangtuo
from yangtuo.errors import MissingDependencyError
from yangtuo.evaluation import text_scores
from yangtuo.evaluation.llamafactory_scores import as_llamafactory
from yangtuo.evaluation.text_scores import (
    bleu,
    check_packages,
    chrf,
    is_exact_match,
    is_repetition_collapse,
    repetition,
    rouge,
    words,
)


@pytest.fixture
def scorers():
    for package in ("rouge_score", "rjieba", "sacrebleu"):
        pytest.importorskip(package, reason=f"{package} is not installed (extra eval)")


@pytest.mark.parametrize(
    ("answer", "reference", "is_one"),
    [
        ("北京", "北京。", True),
        (" 北京！！ \n", "北京", True),
        ("ＡＢＣ　１２", "ABC 12", True),
        ("3.5", "3.5.", True),
        ("Beijing", "beijing", False),
        ("北 京", "北京", False),
        ("。", "", True),
        ("是的，北京", "北京", False),
    ],
)
def test_exact_match_is_of_plain_texts(answer, reference, is_one):
    assert is_exact_match(answer, reference) is is_one


def test_words_are_of_two_scripts(scorers):
    assert words("长城是Great Wall，全长２.1万km……\n真的！") == [
        "长城",
        "是",
        "great",
        "wall",
        "全长",
        "2.1",
        "万",
        "km",
        "真的",
    ]


def test_rouge_by_hand(scorers):
    # the the cat sat / the cat cat ran: "the" 1, "cat" 1 of 4 and 4; "the cat" 1 of 3 and 3; longest "the cat".
    found = rouge(["the the cat sat", "长城"], ["The cat cat ran", "长城。"])
    assert found["rouge1"] == pytest.approx((50, 100))
    assert found["rouge2"] == pytest.approx((100 / 3, 0))
    assert found["rougeL"] == pytest.approx((50, 100))


def test_an_empty_answer_scores_nothing(scorers):
    assert rouge([""], ["长城"]) == {"rouge1": (0,), "rouge2": (0,), "rougeL": (0,)}
    assert bleu([""], ["长城"]).rows == chrf([""], ["长城"]).rows == (0,)
    assert set(as_llamafactory("", "长城").values()) == set(as_llamafactory(" \n", "长城").values()) == {0}


def test_bleu_by_hand(scorers):
    # Characters 长城很长 in 长城很长啊: all n-grams are right, and 4 of 5 are short: exp(1 - 5/4).
    found = bleu(["长城很长"], ["长城很长啊"])
    assert found.value == pytest.approx(100 * math.exp(-0.25))
    assert found.rows == pytest.approx([found.value])
    assert "tok:zh" in found.signature
    both = bleu(["a b c d", "a b x d e"], ["a b c d", "a b c d e"])
    assert "tok:13a" in both.signature
    # 8 of 9 words, 5 of 7 pairs, 2 of 5 triples, 1 of 3 fours.
    assert both.value == pytest.approx(100 * (8 / 9 * 5 / 7 * 2 / 5 * 1 / 3) ** 0.25)
    assert both.rows[0] == pytest.approx(100)


def test_chrf_by_hand(scorers):
    # 长城 in 长城啊: orders 1 and 2: precision 1 and 1; recall 2/3 and 1/2. With F2 = 5PR / (4P + R), means 1 and 7/12.
    found = chrf(["长城"], ["长城啊"])
    precision, recall = 1.0, (2 / 3 + 1 / 2) / 2
    assert found.value == pytest.approx(100 * 5 * precision * recall / (4 * precision + recall))
    assert chrf(["长城", "ab"], ["长城", "cd"]).rows == pytest.approx((100, 0))


@pytest.mark.parametrize("call", [rouge, bleu, chrf])
def test_each_answer_needs_a_reference(scorers, call):
    with pytest.raises(ValueError, match="reference"):
        call(["a"], ["a", "b"])


@pytest.mark.parametrize("call", [bleu, chrf])
def test_no_rows_have_no_score(scorers, call):
    with pytest.raises(ValueError, match="no answers"):
        call([], [])


@pytest.mark.parametrize(("text", "share"), [("", 0), ("abc", 0), ("abcd", 0), ("abcdabcd", 1 / 5), ("aaaaaaa", 3 / 4)])
def test_repetition_by_hand(text, share):
    assert repetition(text) == pytest.approx(share)


@given(st.text())
def test_repetition_is_a_share(text):
    assert 0 <= repetition(text) < 1


@pytest.mark.parametrize("part", ["我", "我喜欢。", "长城是中国古代的军事防御工程，", "I like it very much. "])
def test_a_loop_is_a_collapse(part):
    assert is_repetition_collapse("好的，下面是回答：春天来了，花开了，小草绿了。" * 1 + part * 60)


@pytest.mark.parametrize("text", ["", "哈哈哈哈哈哈", "1. 苹果\n2. 香蕉\n3. 橙子\n4. 葡萄\n5. 西瓜\n6. 草莓\n7. 桃子"])
def test_a_short_text_is_no_collapse(text):
    assert not is_repetition_collapse(text)


def test_no_answer_of_the_demo_is_a_collapse():
    (file,) = (Path(yangtuo.__file__).parent / "demo_data").glob("*.json")
    answers = [row["output"] for row in json.loads(file.read_text(encoding="utf-8"))]
    assert len(answers) > 100
    assert not any(map(is_repetition_collapse, answers))


def test_missing_packages_are_one_line(monkeypatch):
    found = importlib.util.find_spec
    gone = ("rjieba", "sacrebleu")
    monkeypatch.setattr(text_scores.importlib.util, "find_spec", lambda name: None if name in gone else found(name))
    for call in (check_packages, lambda: words("a"), lambda: as_llamafactory("a", "a")):
        with pytest.raises(MissingDependencyError, match=r"rjieba, sacrebleu.*pip install -e .*\[eval\]'?") as raised:
            call()
        assert "\n" not in str(raised.value)
