"""A tokenizer goes into a GGUF file as it is, or not at all where llama.cpp would apply it otherwise."""

import json
import shutil
from dataclasses import replace

import pytest
from gguf import TokenType
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
)

from tests import tiny
from yangtuo.errors import TokenizerError
from yangtuo.exporting.gguf import convert, vocabulary

from .folders import ROWS, llama_folder, model_folder, with_json, written


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return llama_folder(tmp_path_factory.mktemp("folder"))


def test_sentencepiece_pieces_with_scores_and_types(folder, tmp_path, sentencepiece_tokenizer):
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    _, fields, _ = written(folder, tmp_path / "m.gguf")
    pieces = [model.id_to_piece(i) for i in range(ROWS)]
    assert fields["tokenizer.ggml.tokens"] == [*pieces, f"[PAD{ROWS}]", f"[PAD{ROWS + 1}]"]
    types = fields["tokenizer.ggml.token_type"]
    assert types[:3] == [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]
    assert types[-2:] == [TokenType.UNUSED] * 2
    for i in range(3, ROWS):
        assert types[i] == (TokenType.BYTE if model.is_byte(i) else TokenType.NORMAL)
        assert fields["tokenizer.ggml.scores"][i] == pytest.approx(model.get_score(i))
    assert fields["tokenizer.ggml.model"] == "llama"
    assert fields["tokenizer.ggml.pre"] == "default"
    assert {name: fields[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "unknown")} == {
        "bos": 1,
        "eos": 2,
        "unknown": 0,
    }
    assert "tokenizer.ggml.padding_token_id" not in fields
    assert fields["tokenizer.ggml.add_space_prefix"] is True
    assert (fields["tokenizer.ggml.add_bos_token"], fields["tokenizer.ggml.add_eos_token"]) == (True, False)


def test_tokens_that_a_sentencepiece_folder_adds(folder, tmp_path):
    path = shutil.copytree(folder, tmp_path / "added")
    (path / "added_tokens.json").write_text(json.dumps({"[PAD]": ROWS}))
    config = {
        "pad_token": "[PAD]",
        "add_bos_token": False,
        "add_eos_token": True,
        "added_tokens_decoder": {str(ROWS + 1): {"content": "<think>", "special": False}},
    }
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    _, fields, _ = written(path, tmp_path / "m.gguf")
    assert fields["tokenizer.ggml.tokens"][ROWS:] == ["[PAD]", "<think>"]
    assert fields["tokenizer.ggml.token_type"][ROWS:] == [TokenType.CONTROL, TokenType.USER_DEFINED]
    assert fields["tokenizer.ggml.padding_token_id"] == ROWS
    assert (fields["tokenizer.ggml.add_bos_token"], fields["tokenizer.ggml.add_eos_token"]) == (False, False)


def changed_pieces(folder, path, change):
    """A copy whose sentencepiece model is another."""
    from sentencepiece import sentencepiece_model_pb2

    shutil.copytree(folder, path)
    model = sentencepiece_model_pb2.ModelProto.FromString((folder / "tokenizer.model").read_bytes())
    change(model)
    (path / "tokenizer.model").write_bytes(model.SerializeToString())
    return path


def declared_control(model):
    model.pieces[400].piece = "[X]"


def test_a_plain_piece_that_the_folder_declares_as_control_token_is_one(folder, tmp_path):
    path = changed_pieces(folder, tmp_path / "m", declared_control)
    (path / "tokenizer_config.json").write_text(json.dumps({"additional_special_tokens": ["[X]"], "pad_token": "[X]"}))
    _, fields, _ = written(path, tmp_path / "m.gguf")
    assert fields["tokenizer.ggml.token_type"][400] == TokenType.CONTROL
    assert fields["tokenizer.ggml.padding_token_id"] == 400


def test_a_control_token_that_pieces_join_to_is_said(folder, tmp_path, caplog):
    def spelled(model):
        model.pieces[400].piece = "</s"

    written(changed_pieces(folder, tmp_path / "m", spelled), tmp_path / "m.gguf")
    assert "a user's text that spells </s> becomes that token (1 such)" in caplog.text
    caplog.clear()
    written(folder, tmp_path / "other.gguf")
    assert "spells" not in caplog.text


def test_a_token_that_was_added_as_text_is_said(tmp_path, caplog):
    vocabulary.fields(convert.open_tokenizer(tiny.tiny_json_tokenizer(tmp_path)), ROWS)
    assert "a user's text that spells <think> becomes that token (1 such)" in caplog.text


def unigram(model):
    model.trainer_spec.model_type = 1


def without_a_byte(model):
    next(piece for piece in model.pieces if piece.piece == "<0x41>").type = 1


def normalised(model):
    model.normalizer_spec.precompiled_charsmap = b"x"


def squeezed(model):
    model.normalizer_spec.remove_extra_whitespaces = True


def unescaped(model):
    model.normalizer_spec.escape_whitespaces = False


def suffixed(model):
    model.trainer_spec.treat_whitespace_as_suffix = True


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (unigram, "it is no BPE model"),
        (without_a_byte, "it has 255 of the 256 byte pieces"),
        (normalised, "it changes characters"),
        (squeezed, "it removes blanks"),
        (unescaped, "it leaves blanks"),
        (suffixed, "it puts the blank behind words"),
    ],
)
def test_sentencepiece_models_that_llama_cpp_applies_otherwise_are_refused(
    folder, tmp_path, sentencepiece_tokenizer, change, said
):
    path = changed_pieces(folder, tmp_path / "m", change)
    opened = replace(sentencepiece_tokenizer, folder=path)  # sentencepiece itself refuses some of these models
    with pytest.raises(TokenizerError, match=f"llama.cpp would encode otherwise: {said}") as caught:
        vocabulary.fields(opened, ROWS)
    assert "\n" not in str(caught.value)


def test_byte_level_tokens_with_merges_and_types(tmp_path):
    path = model_folder(tmp_path / "m", LlamaConfig, LlamaForCausalLM)
    whole = json.loads((path / "tokenizer.json").read_text())
    _, fields, _ = written(path, tmp_path / "m.gguf")
    assert (fields["tokenizer.ggml.model"], fields["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    assert {text: i for i, text in enumerate(tokens) if types[i] == TokenType.NORMAL} == whole["model"]["vocab"]
    assert {text: types[i] for i, text in enumerate(tokens) if text.startswith("<") and len(text) > 4} == {
        "<|im_start|>": TokenType.CONTROL,
        "<|im_end|>": TokenType.CONTROL,
        "<think>": TokenType.USER_DEFINED,
    }
    assert tokens[403:] == [f"[PAD{i}]" for i in range(403, ROWS)]
    assert fields["tokenizer.ggml.merges"] == [" ".join(pair) for pair in whole["model"]["merges"]]
    assert fields["tokenizer.ggml.eos_token_id"] == 401
    assert "tokenizer.ggml.bos_token_id" not in fields
    assert fields["tokenizer.ggml.add_bos_token"] is fields["tokenizer.ggml.add_space_prefix"] is False
    assert "tokenizer.ggml.scores" not in fields


def test_a_bos_that_is_named_but_not_put_before_texts(tmp_path):
    path = model_folder(tmp_path / "m", LlamaConfig, LlamaForCausalLM)
    with_json(path, "tokenizer_config.json", lambda config: config.update(bos_token="<|im_start|>"))
    _, fields, _ = written(path, tmp_path / "m.gguf")
    assert (fields["tokenizer.ggml.bos_token_id"], fields["tokenizer.ggml.add_bos_token"]) == (400, False)


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}


def split(pattern):
    return {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            BYTES | {"use_regex": False},
        ],
    }


@pytest.mark.parametrize(
    ("name", "pre_tokenizer", "ignores_merges"),
    [
        ("gpt-2", BYTES, False),
        ("gpt-2", {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}, False),
        ("smollm", {"type": "Sequence", "pretokenizers": [DIGITS, BYTES]}, False),
        ("llama-bpe", split(LLAMA3), True),
        ("qwen2", split(LLAMA3.replace("{1,3}", "")), False),
        (None, split(LLAMA3), False),  # Llama 3 takes whole words of its vocabulary first
        (None, split(LLAMA3.replace("{1,3}", "")), True),
        (None, split("a"), False),
        (None, BYTES | {"add_prefix_space": True}, False),
        (None, {"type": "Sequence", "pretokenizers": [BYTES, DIGITS]}, False),
        (None, {"type": "Whitespace"}, False),
        (None, None, False),
    ],
)
def test_the_pre_tokenizer_is_known_by_what_it_does(tmp_path, name, pre_tokenizer, ignores_merges):
    path = tiny.tiny_json_tokenizer(tmp_path / "t")

    def change(whole):
        whole["pre_tokenizer"] = pre_tokenizer
        whole["model"]["ignore_merges"] = ignores_merges

    with_json(path, "tokenizer.json", change)
    opened = convert.open_tokenizer(path)
    if name:
        assert vocabulary.fields(opened, ROWS)["tokenizer.ggml.pre"] == name
    else:
        with pytest.raises(
            TokenizerError, match=r"its pre-tokenizer is .*known are .* gpt-2, smollm, llama-bpe, qwen2"
        ):
            vocabulary.fields(opened, ROWS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda whole: whole.update(normalizer={"type": "NFKC"}), 'its normalizer is {"type": "NFKC"}'),
        (lambda whole: whole["model"].update(merges=[]), "it has no merges"),
        (lambda whole: whole["model"].update(end_of_word_suffix="</w>"), "its pieces carry marks"),
        (
            lambda whole: (whole["model"].update(byte_fallback=True), whole.update(pre_tokenizer=None)),
            "put the tokenizer.model that it was made from beside it",
        ),
    ],
)
def test_other_json_tokenizers_are_refused(tmp_path, change, said):
    path = tiny.tiny_json_tokenizer(tmp_path / "t")
    opened = convert.open_tokenizer(path)
    with_json(path, "tokenizer.json", change)
    with pytest.raises(TokenizerError) as caught:
        vocabulary.fields(opened, ROWS)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_qwens_normaliser_is_let_through(tmp_path):
    path = tiny.tiny_json_tokenizer(tmp_path / "t")
    with_json(path, "tokenizer.json", lambda whole: whole.update(normalizer={"type": "NFC"}))
    assert vocabulary.fields(convert.open_tokenizer(path), ROWS)["tokenizer.ggml.model"] == "gpt2"


def test_a_json_tokenizer_of_another_kind_is_refused(tmp_path):
    import tokenizers

    whole = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    whole.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    with pytest.raises(TokenizerError, match="its model is WordLevel"):
        vocabulary.fields(convert.open_tokenizer(tmp_path), 2)


def test_two_tokens_of_one_text_are_refused(folder, tmp_path):
    path = shutil.copytree(folder, tmp_path / "twice")
    (path / "added_tokens.json").write_text(json.dumps({"[PAD481]": ROWS}))  # what a row without token would be called
    with pytest.raises(TokenizerError, match=r"tokens 480 and 481 are both '\[PAD481\]'"):
        convert.write(path, tmp_path / "m.gguf", "f32", None)


def test_more_tokens_than_rows_are_refused(folder, sentencepiece_tokenizer):
    with pytest.raises(TokenizerError, match="480 tokens, but the model has 479 rows"):
        vocabulary.fields(sentencepiece_tokenizer, ROWS - 1)
