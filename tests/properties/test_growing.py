"""Text that grows by tokens is the text of all tokens, and never shows part of a character."""

import json

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models

from tests import tiny
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.inference.streaming import GrowingText

TEXTS = ("长城东起山海关", "🦙👩‍👩‍👧 emoji", "龘靐齉 rare", " blanks  and\n\nlines ", "�", "a�b", "")


@pytest.fixture(scope="session")
def fallback_tokenizer(tmp_path_factory):
    """A tokenizer.json with byte fallback, as LLaMA's of Hugging Face: a run of bytes is judged as a whole."""
    folder = tmp_path_factory.mktemp("fallback")
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "长", "城", "a", "b", "c", "▁a"]
    model = models.BPE(
        {piece: i for i, piece in enumerate(pieces)}, [("▁", "a")], byte_fallback=True, unk_token="<unk>"
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    return open_tokenizer(folder)


@pytest.fixture(scope="session", params=["sentencepiece", "json", "fallback"])
def any_tokenizer(request, tmp_path_factory):
    if request.param == "fallback":
        return request.getfixturevalue("fallback_tokenizer")
    make = {"sentencepiece": tiny.tiny_sentencepiece, "json": tiny.tiny_json_tokenizer}[request.param]
    return open_tokenizer(make(tmp_path_factory.mktemp(request.param)))


def grown(tokenizer, ids):
    growing = GrowingText(tokenizer)
    return [*(growing.push(i) for i in ids), growing.rest()]


@given(data=st.data())
def test_any_tokens_give_their_text_in_the_end(any_tokenizer, data):
    ids = data.draw(st.lists(st.integers(0, any_tokenizer.num_tokens + 5), max_size=30))
    assert "".join(grown(any_tokenizer, ids)) == any_tokenizer.decode(ids)


@given(text=st.one_of(st.sampled_from(TEXTS), st.text(st.characters(exclude_categories=["Cs"]), max_size=20)))
def test_text_comes_in_whole_characters(any_tokenizer, text):
    ids = any_tokenizer.encode([text], num_threads=1)[0]
    pieces = grown(any_tokenizer, ids)
    if "\ufffd" not in text and 0 not in ids:
        assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) == any_tokenizer.decode(ids)


@pytest.mark.parametrize("text", ["龘", "🦙"])
def test_a_character_of_several_tokens_comes_with_its_last(any_tokenizer, text):
    ids = any_tokenizer.encode([f"a{text}b"], num_threads=1)[0]
    growing = GrowingText(any_tokenizer)
    pieces = [growing.push(i) for i in ids]
    assert [piece for piece in pieces if text in piece]
    assert "".join(pieces).strip() == f"a{text}b"


def test_a_character_that_was_cut_is_left_out_where_asked(any_tokenizer):
    ids = any_tokenizer.encode(["a🦙"], num_threads=1)[0][:-1]
    cut, shown = GrowingText(any_tokenizer), GrowingText(any_tokenizer)
    for i in ids:
        assert "\ufffd" not in cut.push(i) + shown.push(i)
    assert "\ufffd" not in cut.whole_rest()
    assert cut.told.strip() == "a"
    assert shown.rest().endswith("\ufffd")
    assert shown.told.strip("\ufffd ") == "a"


def test_text_flows_while_it_comes(any_tokenizer):
    ids = any_tokenizer.encode(["长城 a b c"], num_threads=1)[0]
    growing = GrowingText(any_tokenizer)
    early = "".join(growing.push(i) for i in ids[: len(ids) // 2])
    assert early.strip()
    assert growing.told == early
