"""Tokenizers of both kinds, built once."""

import pytest

from tests import tiny
from yangtuo.data.tokenizer import Tokenizer, open_tokenizer


@pytest.fixture(scope="session")
def sentencepiece_tokenizer(tmp_path_factory) -> Tokenizer:
    return open_tokenizer(tiny.tiny_sentencepiece(tmp_path_factory.mktemp("sentencepiece")))


@pytest.fixture(scope="session")
def json_tokenizer(tmp_path_factory) -> Tokenizer:
    return open_tokenizer(tiny.tiny_json_tokenizer(tmp_path_factory.mktemp("json")))


@pytest.fixture(params=["sentencepiece", "json"])
def tokenizer(request) -> Tokenizer:
    """Each kind in turn."""
    return request.getfixturevalue(f"{request.param}_tokenizer")
