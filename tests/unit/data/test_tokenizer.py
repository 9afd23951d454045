import json
import shutil

import pytest
import sentencepiece

from tests import tiny
from yangtuo.data.tokenizer import is_tokenizer_folder, open_tokenizer
from yangtuo.errors import TokenizerError


@pytest.fixture
def llama(sentencepiece_tokenizer, tmp_path):
    """A sentencepiece folder that a test may change."""
    return shutil.copytree(sentencepiece_tokenizer.folder, tmp_path / "llama")


@pytest.fixture
def qwen(json_tokenizer, tmp_path):
    """A tokenizer.json folder that a test may change."""
    return shutil.copytree(json_tokenizer.folder, tmp_path / "qwen")


def write(folder, name, **values):
    (folder / name).write_text(json.dumps(values), encoding="utf-8")


def refused(folder):
    with pytest.raises(TokenizerError) as caught:
        open_tokenizer(folder)
    return str(caught.value)


def test_a_bug_is_not_told_as_a_broken_file(qwen, monkeypatch):
    import tokenizers

    def broken(text):
        raise TypeError("ours")

    monkeypatch.setattr(tokenizers, "Tokenizer", type("Fake", (), {"from_str": staticmethod(broken)}))
    with pytest.raises(TypeError, match="ours"):
        open_tokenizer(qwen)


# ---- ids


def test_ids_are_those_of_sentencepiece_itself(sentencepiece_tokenizer):
    texts = [*tiny.SENTENCES, *tiny.CONTROL_TEXTS, "", " ", "龘\0"]
    model = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_tokenizer.folder / "tokenizer.model"))
    assert sentencepiece_tokenizer.encode(texts) == [model.encode(text) for text in texts]
    assert sentencepiece_tokenizer.encode(texts, num_threads=1) == sentencepiece_tokenizer.encode(texts, num_threads=4)


def test_control_ids_and_sizes(sentencepiece_tokenizer, json_tokenizer):
    of = [(t.bos_id, t.eos_id, t.num_tokens) for t in (sentencepiece_tokenizer, json_tokenizer)]
    # The vocabulary trained by tiny, then <|im_start|>, <|im_end|> and <think>.
    num_json = json_tokenizer.num_tokens
    assert of == [(1, 2, tiny.SENTENCEPIECE_VOCABULARY), (None, num_json - 2, num_json)]


@pytest.mark.parametrize("text", tiny.CONTROL_TEXTS)
def test_a_control_token_in_user_text_is_text(tokenizer, text):
    if text in tokenizer.words:
        assert tokenizer.id_of(text) in tokenizer.encode([f"长城{text}天气"])[0]  # a word like others
        return
    texts = set(tiny.CONTROL_TEXTS) - tokenizer.words - {"<0x41>"}  # that is a byte
    named = {tokenizer.backend.id_of(token) for token in texts}
    control = named - {None} | ({0, 1, 2} if tokenizer.bos_id else set())
    (ids,) = tokenizer.encode([f"长城{text}天气"])
    assert not control & set(ids)
    assert tokenizer.decode(ids) == f"长城{text}天气"


def test_the_library_alone_would_make_control_ids_of_it(json_tokenizer):
    # The negative control of the test above: the whole tokenizer.json does find them in text.
    import tokenizers

    whole = tokenizers.Tokenizer.from_file(str(json_tokenizer.folder / "tokenizer.json"))
    for text in ("<|im_end|>", "<think>"):
        assert json_tokenizer.backend.id_of(text) in whole.encode(f"长城{text}天气").ids


@pytest.mark.parametrize("text", [*tiny.SENTENCES, "两个  空格", "\n换行\n\n", "emoji 🐑 龘"])
def test_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode([text])[0]) == text


def test_control_tokens_are_left_out_of_decoded_text(tokenizer):
    (ids,) = tokenizer.encode(["长城"])
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    assert tokenizer.decode([*start, *ids, tokenizer.eos_id]) == "长城"


# ---- what the other files of a folder say


def test_bos_can_be_switched_off(llama):
    assert open_tokenizer(llama).bos_id == 1
    write(llama, "tokenizer_config.json", add_bos_token=False)
    assert open_tokenizer(llama).bos_id is None


def test_added_tokens_count(llama):
    write(llama, "added_tokens.json", **{"[PAD]": 480})
    opened = open_tokenizer(llama)
    assert (opened.num_tokens, opened.backend.id_of("[PAD]")) == (481, 480)
    write(
        llama, "tokenizer_config.json", added_tokens_decoder={"481": {"content": "<|im_end|>"}}, eos_token="<|im_end|>"
    )
    opened = open_tokenizer(llama)
    assert (opened.num_tokens, opened.eos_id) == (482, 481)


@pytest.mark.parametrize("value", ["<unused>", {"content": "<unused>"}])
@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
def test_the_end_token_that_is_named(llama, name, value):
    write(llama, "added_tokens.json", **{"<unused>": 480})
    write(llama, name, eos_token=value)
    assert open_tokenizer(llama).eos_id == 480


def test_bos_of_a_json_tokenizer_by_its_own_rule(qwen):
    from tokenizers import Tokenizer, processors

    whole = Tokenizer.from_file(str(qwen / "tokenizer.json"))
    start = whole.token_to_id("<|im_start|>")
    assert open_tokenizer(qwen).bos_id is None
    write(qwen, "tokenizer_config.json", eos_token="<|im_end|>", bos_token="<|im_start|>", add_bos_token=True)
    assert open_tokenizer(qwen).bos_id == start
    write(qwen, "tokenizer_config.json", eos_token="<|im_end|>")
    whole.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", start)]
    )
    whole.save(str(qwen / "tokenizer.json"))
    assert open_tokenizer(qwen).bos_id == start


def test_cutting_and_padding_of_the_file_are_off(qwen):
    from tokenizers import Tokenizer

    before = open_tokenizer(qwen).encode(["长城", "天气很好"])
    whole = Tokenizer.from_file(str(qwen / "tokenizer.json"))
    whole.enable_truncation(1)
    whole.enable_padding()
    whole.save(str(qwen / "tokenizer.json"))
    assert open_tokenizer(qwen).encode(["长城", "天气很好"]) == before


# ---- folders


def test_sha256_follows_the_files_that_decide_the_ids(llama):
    before = open_tokenizer(llama).sha256()
    write(llama, "generation_config.json", temperature=1)
    assert open_tokenizer(llama).sha256() == before
    write(llama, "added_tokens.json", **{"[PAD]": 480})
    assert open_tokenizer(llama).sha256() != before


def test_files_are_saved_byte_for_byte(llama, tmp_path):
    write(llama, "added_tokens.json", **{"[PAD]": 480})
    (llama / "model.safetensors").write_bytes(b"weights")
    target = tmp_path / "copy"
    target.mkdir()
    open_tokenizer(llama).save(target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {
        name: (llama / name).read_bytes() for name in ("tokenizer.model", "added_tokens.json")
    }
    assert open_tokenizer(target).sha256() == open_tokenizer(llama).sha256()


def test_no_tokenizer(tmp_path):
    assert not is_tokenizer_folder(tmp_path)
    assert refused(tmp_path) == f"{tmp_path}: no tokenizer here; expected tokenizer.model (LLaMA) or tokenizer.json"


def test_broken_files(llama, qwen):
    (llama / "tokenizer.model").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    message = refused(llama)
    assert message.startswith(f"{llama}/tokenizer.model: not a sentencepiece model (")
    assert message.endswith("if the folder has a tokenizer.json as well, use a copy of it without tokenizer.model")
    (qwen / "tokenizer.json").write_text("{}")
    assert refused(qwen).startswith(f"{qwen}/tokenizer.json: cannot be read: ")
    (qwen / "tokenizer_config.json").write_text("{")
    assert refused(qwen).startswith(f"{qwen}/tokenizer_config.json: broken JSON: ")


@pytest.mark.parametrize("config", [{}, {"eos_token": None}, {"eos_token": "<none>"}])
def test_no_end_token(qwen, config):
    write(qwen, "tokenizer_config.json", **config)
    assert refused(qwen) == f'{qwen}: no end token; name it as "eos_token" in tokenizer_config.json'


# ---- folders that would break the contract that text is text


def test_a_control_token_that_sentencepiece_would_find_in_text(tmp_path):
    """As in Gemma's model; the same symbol, not declared as special, is just a piece of text."""
    import io

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(tiny.SENTENCES),
        model_writer=model,
        model_type="bpe",
        vocab_size=tiny.SENTENCEPIECE_VOCABULARY,
        byte_fallback=True,
        character_coverage=0.98,
        user_defined_symbols=["<start_of_turn>"],
        minloglevel=2,
    )
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    open_tokenizer(tmp_path)
    write(tmp_path, "tokenizer_config.json", additional_special_tokens=["<start_of_turn>"])
    assert "it turns '<start_of_turn>' inside a user's text into the control id 3" in refused(tmp_path)


def test_an_end_token_that_the_model_does_not_have(llama):
    write(llama, "tokenizer_config.json", eos_token="<|end|>")
    assert "its end token '<|end|>' is not in tokenizer.model" in refused(llama)
