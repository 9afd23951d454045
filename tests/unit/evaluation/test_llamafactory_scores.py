"""What LLaMA-Factory prints, by hand, and against the libraries that it uses where these are installed."""

import json
import math
import random
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import yangtuo
from yangtuo.evaluation.llamafactory_scores import NAMES, as_llamafactory, bleu_of_characters, common_length

ODD = (
    ("好。\n\n好的。", "好。\n好的"),
    ("第一。 \n \n第二？！", "第一。\n\n\n第二"),
    ("等等.......然后……", "等等......然后…………"),
    ("“好！”他说。“行。”", "“好！”，他说"),
    ("a", "a"),
    ("abc", "cab"),
    ("长城长城长城", "长城"),
    (" ", "长城"),
    ("", ""),
    ("?\n?\n", "??"),
    ("def f():\n    return 1\n\n", "def f():\n\n    return 2"),
)


def texts():
    """Pairs of a reference and what a model might answer: cut, mixed, repeated, another row's."""
    (file,) = (Path(yangtuo.__file__).parent / "demo_data").glob("*.json")
    rows, draws = [row["output"] for row in json.loads(file.read_text(encoding="utf-8"))], random.Random(0)
    for i, text in enumerate(rows[:60]):
        start, end = sorted(draws.sample(range(len(text) + 1), 2))
        yield (text[:end], text[start:] + text[:end], text * 2, rows[-1 - i])[i % 4], text
    yield from ODD


def test_the_scores_are_those_of_the_libraries():
    pytest.importorskip("rjieba", reason="rjieba is not installed (extra eval)")
    pytest.importorskip("rouge_chinese", reason="rouge-chinese is not installed; only this test needs it")
    bleu_score = pytest.importorskip("nltk.translate.bleu_score", reason="nltk is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its source has escapes that Python warns of
        jieba = pytest.importorskip("jieba", reason="jieba is not installed; only this test needs it")
        from rouge_chinese import Rouge
    method = bleu_score.SmoothingFunction().method3
    num_compared = 0
    for answer, reference in texts():
        ours, theirs = (" ".join(jieba.cut(text)) for text in (answer, reference))
        wanted = {"rouge-1": 0.0, "rouge-2": 0.0, "rouge-l": 0.0}
        if ours.split() and theirs.split():
            wanted = {name: found["f"] for name, found in Rouge().get_scores(ours, theirs)[0].items()}
        wanted["bleu-4"] = bleu_score.sentence_bleu([list(reference)], list(answer), smoothing_function=method)
        assert as_llamafactory(answer, reference) == pytest.approx(
            {name: round(value * 100, 4) for name, value in wanted.items()}, abs=1.1e-4
        ), (answer, reference)
        num_compared += 1
    assert num_compared == 60 + len(ODD)


def test_by_hand():
    pytest.importorskip("rjieba", reason="rjieba is not installed (extra eval)")
    # Words: the different ones of "a a b" are a and b, of "a c" a and c: 1 of 2 and 2. Longest common: a, of 3 and 2.
    found = as_llamafactory("a a b", "a c")
    assert tuple(found) == NAMES
    assert found["rouge-1"] == 50
    assert found["rouge-2"] == 0
    assert found["rouge-l"] == pytest.approx(40, abs=1e-4)


def test_bleu_of_characters_by_hand():
    # abcde against abxde: 4/5, 2/4, no triple: 1/2 of 3, no four: 1/4 of 2.
    assert bleu_of_characters("abcde", "abxde") == pytest.approx((4 / 5 * 2 / 4 * (1 / 2 / 3) * (1 / 4 / 2)) ** 0.25)
    assert bleu_of_characters("abcde", "abcdefg") == pytest.approx(math.exp(1 - 7 / 5))
    assert bleu_of_characters("", "ab") == bleu_of_characters("xy", "ab") == 0


def slow_common_length(one, other):
    rows = [0] * (len(other) + 1)
    for a in one:
        before = rows[:]
        for j, b in enumerate(other):
            rows[j + 1] = before[j] + 1 if a == b else max(rows[j], before[j + 1])
    return rows[-1]


@given(st.text("abc", max_size=40), st.text("abc", max_size=40))
def test_the_longest_common_subsequence_is_that_of_the_table(one, other):
    assert common_length(one, other) == slow_common_length(one, other)
