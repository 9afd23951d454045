"""llama.cpp's ids with the vocabulary of Chinese-Alpaca, whose Chinese pieces all have the same score."""

import pytest

from tests import tiny
from tests.gguf.reading import ids_of, opened
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.exporting.gguf import convert
from yangtuo.vocab import grow
from yangtuo.vocab.texts import texts_of

from .conftest import SHARED

ASSETS = SHARED / "assets"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tiny.tiny_llama(tmp_path_factory.mktemp("alpaca"), num_rows=49_954)
    merged = grow.merge(ASSETS / "llama_tokenizer.model", [ASSETS / "chinese_sp.model"], "[PAD]")
    grow.write_folder(merged, folder)
    return folder


@pytest.fixture(scope="module")
def path(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("gguf") / "m.gguf"
    assert convert.write(folder, out, "f32", None).num_tokens == 49_954
    return out


def test_every_row_has_the_same_ids(folder, path):
    llama, tokenizer = opened(path, vocab_only=True), open_tokenizer(folder)
    texts = list(texts_of([ASSETS / "alpaca_zh_dev.json"]))
    found = [ids_of(llama, text, bos=False) for text in texts]
    same = sum(one == wanted for one, wanted in zip(found, tokenizer.encode(texts), strict=True))
    assert (same, len(texts)) == (1000, 1000)  # question and answer of each row


@pytest.mark.parametrize(
    "text", ["产生产 生产生", "a<s>b</s>", "<unk>[PAD]", "<0x41>", "", " ", "  两个空格", "换行\n\n"]
)
def test_borders_and_names_of_tokens(folder, path, text):
    llama, tokenizer = opened(path, vocab_only=True), open_tokenizer(folder)
    assert ids_of(llama, text, bos=False) == tokenizer.encode([text])[0]
    assert ids_of(llama, text) == [1, *tokenizer.encode([text])[0]]
