"""The vocabulary of Chinese-LLaMA and Chinese-Alpaca, as published in 2023, from the two models that it was made of."""

import hashlib
import re

import pytest
import sentencepiece
import tokenizers
from transformers import AutoTokenizer

from yangtuo.data.token_stats import density
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.vocab import grow
from yangtuo.vocab.grow import plan_growth
from yangtuo.vocab.texts import texts_of

from .conftest import CHINESE_LLAMA_SHA256, SHARED

CHINESE_ALPACA_SHA256 = "2d967e855b1213a439df6c8ce2791f869c84b4f3b6cfacf22b86440b8192a2f8"  # as published in 2023
LLAMA, CHINESE = SHARED / "assets/llama_tokenizer.model", SHARED / "assets/chinese_sp.model"


@pytest.fixture(scope="module")
def texts():
    return list(texts_of([SHARED / "assets/alpaca_zh_dev.json"]))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    (folder / "tokenizer.model").write_bytes(LLAMA.read_bytes())
    return open_tokenizer(folder)


@pytest.fixture(scope="module")
def alpaca(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alpaca")
    grow.write_folder(grow.merge(LLAMA, [CHINESE], "[PAD]"), folder)
    return open_tokenizer(folder)


@pytest.mark.parametrize(
    ("pad_token", "num_pieces", "sha256"),
    [(None, 49_953, CHINESE_LLAMA_SHA256), ("[PAD]", 49_954, CHINESE_ALPACA_SHA256)],
)
def test_the_published_files_byte_for_byte(pad_token, num_pieces, sha256):
    merged = grow.merge(LLAMA, [CHINESE], pad_token)
    assert hashlib.sha256(merged.model).hexdigest() == sha256
    assert (merged.num_base, merged.num_added, merged.num_left_out) == (32_000, (17_953,), 0)
    assert merged.num_pieces == num_pieces


def test_another_padding_token_is_another_file():
    model = grow.merge(LLAMA, [CHINESE], "<pad>").model
    assert hashlib.sha256(model).hexdigest() != CHINESE_ALPACA_SHA256


def test_the_merged_vocabulary_writes_chinese_in_two_fifths_of_the_tokens(llama, alpaca, texts):
    old, new = density(llama, texts), density(alpaca, texts)
    assert old.per_chinese_character() == pytest.approx(1.484, abs=5e-4)
    assert new.per_chinese_character() == pytest.approx(0.581, abs=5e-4)
    assert old.byte_share() == pytest.approx(0.431, abs=5e-4)
    assert new.byte_share() == pytest.approx(0.036, abs=5e-4)
    assert old.num_unaligned == new.num_unaligned == 0


def test_each_run_of_chinese_alone_takes_two_thirds_of_a_token_a_character(llama, alpaca, texts):
    runs = [run for text in texts for run in re.findall(r"[\u4e00-\u9fff]+", text)]  # a blank goes before each
    num = sum(map(len, runs))
    assert sum(map(len, alpaca.encode(runs))) / num == pytest.approx(0.670, abs=5e-4)
    assert sum(map(len, llama.encode(runs))) / num == pytest.approx(1.596, abs=5e-4)


def test_new_rows_come_from_the_pieces_of_llamas_own_tokenizer(llama, alpaca):
    growth = plan_growth(alpaca, llama, 32_000)
    assert (growth.num_kept, growth.num_rows, len(growth.sources)) == (32_000, 49_954, 17_953)
    assert growth.sources[alpaca.id_of("中国")] == [llama.id_of("中"), llama.id_of("国")]
    for i, ids in growth.sources.items():
        assert b"".join(map(llama.bytes_of, ids)) == alpaca.bytes_of(i)


def test_no_ranking_of_merges_gives_the_ids_of_equal_scores(alpaca):
    model = sentencepiece.SentencePieceProcessor(model_file=str(alpaca.folder / "tokenizer.model"))
    wanted = {"产生产": ["产生", "产"], "生产生": ["生产", "生"]}
    assert {text: model.encode(text, out_type=str)[1:] for text in wanted} == wanted  # the leftmost first
    vocabulary_ = {"产": 0, "生": 1, "产生": 2, "生产": 3}
    merges = [("产", "生"), ("生", "产")]
    for ranked in (merges, merges[::-1]):
        bpe = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary_, ranked))
        assert sum(bpe.encode(text).tokens == pieces for text, pieces in wanted.items()) == 1


def test_transformers_opens_the_folder_and_encodes_most_rows_otherwise(alpaca, texts):
    theirs = AutoTokenizer.from_pretrained(alpaca.folder)
    assert (theirs.pad_token_id, theirs.bos_token_id, theirs.eos_token_id, len(theirs)) == (49_953, 1, 2, 49_954)
    assert theirs("你好").input_ids == [1, *alpaca.encode(["你好"])[0]]
    same = sum(
        theirs.encode(text, add_special_tokens=False) == ids
        for text, ids in zip(texts, alpaca.encode(texts), strict=True)
    )
    assert 0.3 < same / len(texts) < 0.8  # once it is 1, docs/dependencies.md has to say so


def test_transformers_sentencepiece_class_encodes_as_training_does(alpaca, texts):
    from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

    theirs = SentencePieceBackend.from_pretrained(alpaca.folder)
    for text, ids in zip(texts, alpaca.encode(texts), strict=True):
        assert theirs.encode(text, add_special_tokens=False) == ids
