import pytest

from tests import tiny
from tests.dialogues import controlled, records, turns
from yangtuo.data.backends import Blank
from yangtuo.data.encoding import EncodingOptions, encode
from yangtuo.data.measures import fit_of, sample
from yangtuo.data.templates import ALPACA_ZH, CHATML, FrameTemplate
from yangtuo.data.tokenizer import open_tokenizer

FRAME = FrameTemplate("test", opening="{system}", opening_without_system="[", after_user="]", between="|")


def fit(tokenizer, template, *dialogues):
    examples, _ = encode(records(*dialogues), tokenizer, EncodingOptions(template, 1000))
    return fit_of(examples, range(len(examples)), tokenizer)


class _Pairs:
    """One id a character, but one for two x in a row: a boundary between them shows."""

    def __init__(self, inner):
        self._inner = inner

    blank = Blank.NEVER

    def encode(self, texts, num_threads, continues=None):
        return [[3 if one == "\0" else ord(one) + 3 for one in text.replace("xx", "\0")] for text in texts]

    def decode(self, ids):
        return "".join("xx" if i == 3 else chr(i - 3) for i in ids)

    def __getattr__(self, name):
        return getattr(self._inner, name)


@pytest.fixture
def pairs():
    tokenizer = controlled("<|im_start|>", "<|im_end|>")
    object.__setattr__(tokenizer, "backend", _Pairs(tokenizer.backend))
    return tokenizer


def test_one_token_a_character():
    found = fit(controlled(), FRAME, turns("q", "你好"), turns("问题", "ok好"), turns("q", "ok"))
    assert (found.num_rows, found.num_chinese, found.tokens_per_chinese) == (3, 3, 1.0)  # questions do not count
    assert found.num_other_at_boundary == 0


def test_without_chinese_there_is_no_number():
    assert fit(controlled(), FRAME, turns("q", "ok")).tokens_per_chinese is None


@pytest.mark.parametrize(("after", "answer", "expected"), [("]x", "x", 1), ("]x", "y", 0), ("]", "xx", 0)])
def test_rows_whose_boundary_would_be_tokenised_otherwise_in_one_piece(pairs, after, answer, expected):
    template = FrameTemplate("test", "{system}", "[", after, "|")
    assert fit(pairs, template, turns("q", answer), turns("q", "z")).num_other_at_boundary == expected


def test_a_control_token_between_prompt_and_answer_parts_them_anyway(pairs):
    template = FrameTemplate("test", "{system}", "[", "x<|im_start|>", "|", control_tokens=("<|im_start|>",))
    assert fit(pairs, template, turns("q", "x")).num_other_at_boundary == 0


def test_control_tokens_and_further_turns_are_left_out(pairs):
    found = fit(pairs, CHATML, turns("问", "你好", "问", "很好很好"), turns("q", "a<|im_end|>好"))
    assert (found.num_rows, found.num_chinese) == (2, 3)
    assert found.num_other_at_boundary == 0


def test_the_blank_that_sentencepiece_puts_before_a_text_is_no_part_of_a_character(tmp_path):
    tokenizer = open_tokenizer(tiny.tiny_sentencepiece(tmp_path))
    assert len(tokenizer.encode(["长"])[0]) == 2
    assert fit(tokenizer, ALPACA_ZH, turns("q", "长")).tokens_per_chinese == 1.0
    spelled = fit(tokenizer, ALPACA_ZH, turns("q", "龘"))
    assert spelled.tokens_per_chinese == 3.0  # no token of its own: three bytes


def test_a_sample():
    assert sample(5, 10, 0).tolist() == [0, 1, 2, 3, 4]
    chosen = sample(1000, 50, 0).tolist()
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 50
    assert chosen == sample(1000, 50, 0).tolist() != sample(1000, 50, 1).tolist()
