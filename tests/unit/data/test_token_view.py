import pytest

from tests import tiny
from tests.dialogues import controlled, records, turns
from yangtuo.data.encoding import EncodingOptions, encode
from yangtuo.data.examples import Examples
from yangtuo.data.templates import ALPACA_ZH, FrameTemplate
from yangtuo.data.token_view import TokenView, token_views
from yangtuo.data.tokenizer import open_tokenizer

FRAME = FrameTemplate("test", opening="{system}", opening_without_system="[", after_user="]", between="|")


def test_token_by_token():
    tokenizer = controlled()
    examples, _ = encode(records(turns("</s>", "好")), tokenizer, EncodingOptions(FRAME, 100))
    views = list(token_views(examples, 0, tokenizer))
    assert views[0] == TokenView("<s>", (1,), is_trained=False, is_control=True)
    assert [view.text for view in views] == ["<s>", "[", "<", "/", "s", ">", "]", "好", "</s>"]
    assert [view.is_control for view in views] == [True, *[False] * 7, True]
    assert [view.is_trained for view in views] == [*[False] * 7, True, True]


@pytest.mark.parametrize("make", [tiny.tiny_sentencepiece, tiny.tiny_json_tokenizer])
def test_characters_that_are_spelled_in_bytes_are_one_view(tmp_path, make):
    tokenizer = open_tokenizer(make(tmp_path))
    examples, _ = encode(records(turns("q", "龘a🇨🇳\n。")), tokenizer, EncodingOptions(ALPACA_ZH, 1000))
    views = list(token_views(examples, 0, tokenizer))
    assert tuple(i for view in views for i in view.ids) == tuple(examples.row(0)[0].tolist())
    answer = [view for view in views if view.is_trained and not view.is_control]
    assert "".join(view.text for view in answer).strip(" ") == "龘a🇨🇳\n。"
    (rare,) = (view for view in answer if "龘" in view.text)
    assert rare.is_spelled_in_bytes
    assert not next(view for view in answer if view.text == "a").is_spelled_in_bytes
    assert not any("\ufffd" in view.text for view in views)
    assert views[-1].is_control


def bytes_of(tokenizer, text):
    return [i for i in tokenizer.encode([text])[0] if tokenizer.bytes_of(i) != b" "]


def test_a_part_of_a_character_before_a_control_token_stands_before_it(tmp_path):
    tokenizer = open_tokenizer(tiny.tiny_sentencepiece(tmp_path))
    part = bytes_of(tokenizer, "龘")[:2]
    examples = Examples.of_rows([[*part, tokenizer.eos_id]], [[False, True, True]])
    assert [(view.text, view.ids, view.is_trained) for view in token_views(examples, 0, tokenizer)] == [
        ("\ufffd", (part[0],), False),
        ("\ufffd", (part[1],), True),
        ("</s>", (2,), True),
    ]


def test_a_part_of_a_character_at_the_end_of_a_row_is_shown_as_such(tmp_path):
    tokenizer = open_tokenizer(tiny.tiny_sentencepiece(tmp_path))
    part = bytes_of(tokenizer, "龘")[:2]
    (view,) = token_views(Examples.of_rows([part], [[True, True]]), 0, tokenizer)
    assert (view.text, view.ids, view.is_trained) == ("\ufffd", tuple(part), True)


def test_bytes_that_are_no_character_are_shown_as_such(tmp_path):
    tokenizer = open_tokenizer(tiny.tiny_sentencepiece(tmp_path))
    first = bytes_of(tokenizer, "龘")[0]
    (ascii_,) = bytes_of(tokenizer, "a")
    views = list(token_views(Examples.of_rows([[first, ascii_, ascii_]], [[True] * 3]), 0, tokenizer))
    assert [view.text for view in views] == ["\ufffd a", " a"]
