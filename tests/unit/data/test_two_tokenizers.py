"""A folder with tokenizer.model and tokenizer.json: one rule, said, or a refusal that names both."""

import json

import pytest
import sentencepiece

from tests import tiny
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.errors import TokenizerError
from yangtuo.model import provenance

NEW = tiny.SENTENCEPIECE_VOCABULARY


def pieces_of(folder):
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return {model.id_to_piece(i): i for i in range(model.get_piece_size())}


@pytest.fixture
def folder(tmp_path):
    return tiny.tiny_sentencepiece(tmp_path / "both")


def write_json(folder, added=(), vocabulary=None):
    """A tokenizer.json of the same pieces, as a fast tokenizer saves it."""
    known = pieces_of(folder)
    listed = [{"id": i, "content": text, "special": True} for text, i in list(known.items())[:3]]
    for text, i, special in added:
        listed.append({"id": i, "content": text, "special": special, "lstrip": False, "rstrip": True})
    content = {"model": {"type": "BPE", "vocab": vocabulary or known, "merges": []}, "added_tokens": listed}
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def said(folder):
    with pytest.raises(TokenizerError) as caught:
        open_tokenizer(folder)
    return str(caught.value).removeprefix(f"{folder}: ")


def test_the_same_tokens_in_both_are_read_as_before(folder):
    alone = open_tokenizer(folder)
    write_json(folder)
    both = open_tokenizer(folder)
    assert both.told == ""
    assert both.encode(tiny.SENTENCES) == alone.encode(tiny.SENTENCES)
    assert (both.num_tokens, both.controls, both.words) == (alone.num_tokens, alone.controls, alone.words)


def test_words_that_the_newer_json_adds_become_their_ids(folder, caplog):
    write_json(folder, [("四逆汤", NEW, False), ("桂枝汤", NEW + 1, False), ("<|im_end|>", NEW + 2, True)])
    opened = open_tokenizer(folder)
    assert opened.told == (
        "tokenizer.model is read, with the 3 token(s) that tokenizer.json adds to it: 四逆汤, 桂枝汤, <|im_end|>"
    )
    assert opened.num_tokens == NEW + 3
    ((*_, first), (*_, second), control) = opened.encode(["方是四逆汤", "桂枝汤 ", "<|im_end|>"])
    assert (first, second) == (NEW, NEW + 1)  # rstrip takes the blank
    assert NEW + 2 not in control  # special: text is text
    assert opened.id_of("<|im_end|>") == NEW + 2
    assert opened.words == {"四逆汤", "桂枝汤"}
    assert provenance.find_tokenizer([folder]).folder == folder
    assert f"tokenizer: {folder}: tokenizer.model is read, with the 3 token(s)" in caplog.text


def test_words_that_the_folder_says_elsewhere_are_no_news(folder):
    (folder / "added_tokens.json").write_text(json.dumps({"四逆汤": NEW}), encoding="utf-8")
    alone = open_tokenizer(folder)
    write_json(folder, [("四逆汤", NEW, False)])
    assert open_tokenizer(folder).told == ""
    assert open_tokenizer(folder).encode(["四逆汤"]) == alone.encode(["四逆汤"])


def test_a_newer_model_beside_an_old_json_is_read_and_said(folder):
    old = {text: i for text, i in pieces_of(folder).items() if i < NEW - 80}
    write_json(folder, vocabulary=old)
    opened = open_tokenizer(folder)
    assert opened.num_tokens == NEW
    assert opened.told == (
        "tokenizer.model is read, of which tokenizer.json lacks 80 tokens: programs that read that one make other ids"
    )


@pytest.mark.parametrize("kind", ["other ids", "an added word on another's id", "pieces of its own", "another id"])
def test_a_contradiction_is_refused_with_both_names(kind, folder):
    known = pieces_of(folder)
    if kind == "other ids":
        first, second = [text for text, i in known.items() if i in (300, 301)]
        write_json(folder, vocabulary={**known, first: 301, second: 300})
        expected = f"in 2 tokens (the id of {first!r}: 300 and 301)"
    elif kind == "an added word on another's id":
        write_json(folder, [("四逆汤", NEW - 1, False)], vocabulary={t: i for t, i in known.items() if i < NEW - 1})
        expected = f"in 1 tokens (the id of '四逆汤': none and {NEW - 1})"
    elif kind == "pieces of its own":
        write_json(folder, vocabulary={**known, "逆汤": NEW})
        expected = f"in 1 tokens (the id of '逆汤': none and {NEW})"
    else:
        (folder / "added_tokens.json").write_text(json.dumps({"四逆汤": NEW}), encoding="utf-8")
        write_json(folder, [("四逆汤", NEW + 1, False)])
        expected = f"in 1 tokens (the id of '四逆汤': {NEW} and {NEW + 1})"
    message = said(folder)
    assert message.startswith(f"tokenizer.model and tokenizer.json contradict each other {expected}; ")
    assert message.endswith("transformers reads tokenizer.json, the 2023 script tokenizer.model")


def test_a_piece_that_the_json_renames_is_no_contradiction(folder):
    write_json(folder, [("<|plugin|>", NEW - 1, True)])
    assert open_tokenizer(folder).id_of("<|plugin|>") == NEW - 1


def test_a_json_that_cannot_be_read_is_told(folder):
    (folder / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1")
    assert open_tokenizer(folder).told.startswith("tokenizer.model is read; tokenizer.json beside it cannot be: ")


def test_two_files_that_add_a_word_with_two_ids(folder):
    (folder / "added_tokens.json").write_text(json.dumps({"四逆汤": NEW}), encoding="utf-8")
    decoder = {"added_tokens_decoder": {str(NEW + 1): {"content": "四逆汤", "special": False}}}
    (folder / "tokenizer_config.json").write_text(json.dumps(decoder), encoding="utf-8")
    assert said(folder) == (
        f"'四逆汤' has the id {NEW} in added_tokens.json and {NEW + 1} in tokenizer_config.json; "
        "correct the one that is wrong"
    )
