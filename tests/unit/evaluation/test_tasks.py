import numpy as np
import pytest

from tests import tiny
from yangtuo.data.prompt_rows import PromptRow
from yangtuo.data.templates import ALPACA_ZH
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.evaluation.tasks import AnswerTask, LikelihoodTask, answers_of_options, continuations, plain_texts
from yangtuo.inference.generate import Sampling


class Merging:
    """A tokenizer of characters that has one token for "=A": behind "=", the letter A becomes part of its token."""

    def __init__(self, bos):
        self.bos_id = bos

    def encode(self, texts):
        return [[ord(c) for c in text.replace("=A", "\u2460")] for text in texts]


def rows_of(examples):
    return [(examples.row(i)[0].tolist(), np.flatnonzero(examples.row(i)[1]).tolist()) for i in range(len(examples))]


@pytest.mark.parametrize(("bos", "front"), [(1, [1]), (None, [])])
def test_the_tokens_of_a_continuation_have_a_loss_though_one_is_merged(bos, front):
    found = rows_of(continuations(Merging(bos), [("x=", ("A", "BC"))]))
    n = len(front)
    assert found == [
        ([*front, ord("x"), 0x2460], [n + 1]),  # its letter is inside the token, which has the loss
        ([*front, ord("x"), ord("="), ord("B"), ord("C")], [n + 2, n + 3]),
    ]


def test_a_first_token_is_never_predicted():
    assert rows_of(continuations(Merging(None), [("", ("AB",))])) == [([65, 66], [1])]
    assert rows_of(plain_texts(tiny.characters(bos=False), ["ab"])) == [([ord("a") + 3, ord("b") + 3], [1])]


def test_plain_texts_begin_with_bos_where_there_is_one():
    assert rows_of(plain_texts(tiny.characters(), ["ab"])) == [([1, ord("a") + 3, ord("b") + 3], [1, 2])]


def test_options_are_answers_in_the_template(tmp_path):
    tokenizer = open_tokenizer(tiny.tiny_sentencepiece(tmp_path))
    examples = answers_of_options(tokenizer, ALPACA_ZH, [("一？", ("甲", "乙")), ("二？", ("丙",))])
    said = [tokenizer.decode(examples.row(i)[0][examples.row(i)[1]].tolist()).strip() for i in range(3)]
    assert said == ["甲", "乙", "丙"]
    assert all(examples.row(i)[0][-1] == tokenizer.eos_id for i in range(3))


def test_a_task_is_known_by_all_that_is_asked_and_by_nothing_else():
    def read(name="own", last=5, keys=("a",), is_supervised=(0, 1)):
        rows = continuations(tiny.characters(), [("x", (chr(last + 60),))])
        ids, _ = rows.row(0)
        return LikelihoodTask(name, type(rows).of_rows([ids], [np.r_[0, is_supervised]]), keys).identity

    assert read() == read()
    others = [read("probe"), read(last=6), read(keys=("b",)), read(is_supervised=(1, 1))]
    assert len({read(), *others}) == 5

    def asked(*ids, text="?", keys=("a",), most=8, sampling=None):
        return AnswerTask("own", (PromptRow(text, ids),), keys, most, sampling).identity

    assert asked(1, 2) == asked(1, 2, text="as it is shown")
    drawn = [Sampling(8, temperature=1.0, seed=seed) for seed in (1, 2)]
    others = [asked(1, 3), asked(1, 2, keys=("b",)), asked(1, 2, most=9), *(asked(1, 2, sampling=s) for s in drawn)]
    assert len({asked(1, 2), *others}) == 6
