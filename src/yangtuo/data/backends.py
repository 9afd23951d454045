"""One interface to both tokenizer libraries, sentencepiece and tokenizers; see `tokenizer`."""

import functools
import os
import re
from collections.abc import Sequence
from typing import Any

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # how sentencepiece writes a byte as a token


class SentencePiece:
    """sentencepiece's own, with the tokens that the folder adds."""

    def __init__(self, model: Any, added: dict[str, int]):
        self._model, self._added = model, added

    def encode(self, texts: Sequence[str], num_threads: int) -> list[list[int]]:
        """Ids of plain text."""
        ids: list[list[int]] = self._model.encode(list(texts), num_threads=num_threads)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        size = self._model.get_piece_size()
        return str(self._model.decode([int(i) for i in ids if i < size]))

    def id_of(self, token: str) -> int | None:
        """The id of a token given by its text."""
        if token in self._added:
            return self._added[token]
        i = self._model.piece_to_id(token) if token else self._model.unk_id()
        return None if i == self._model.unk_id() else int(i)

    def num_tokens(self) -> int:
        """Length of the vocabulary."""
        size = int(self._model.get_piece_size())
        return max(size, *(i + 1 for i in self._added.values()), 0)

    def bytes_of(self, i: int) -> bytes:
        """What a token stands for."""
        if i >= self._model.get_piece_size():
            return next(text for text, j in self._added.items() if j == i).encode()
        return _bytes_of_piece(self._model.id_to_piece(i))

    def is_byte(self, i: int) -> bool:
        """Whether a token stands for one byte."""
        return i < self._model.get_piece_size() and bool(self._model.is_byte(i))


class Json:
    """tokenizers' own: `whole` knows the added tokens, `plain` does not and encodes."""

    def __init__(self, whole: Any, plain: Any):
        self._whole, self._plain = whole, plain

    def encode(self, texts: Sequence[str], num_threads: int) -> list[list[int]]:
        """Ids of plain text."""
        # The library takes the number of its threads from the environment, and only before its first use.
        os.environ.setdefault("RAYON_NUM_THREADS", str(num_threads))
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        return [encoding.ids for encoding in self._plain.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        return str(self._whole.decode(list(ids), skip_special_tokens=True))

    def id_of(self, token: str) -> int | None:
        """The id of a token given by its text."""
        i: int | None = self._whole.token_to_id(token) if token else None
        return i

    def num_tokens(self) -> int:
        """Length of the vocabulary."""
        return int(max(self._whole.get_vocab(with_added_tokens=True).values())) + 1

    def bytes_of(self, i: int) -> bytes:
        """What a token stands for."""
        piece = str(self._whole.id_to_token(i))
        byte_of = _byte_level_bytes()
        is_byte_level = type(self._whole.decoder).__name__ == "ByteLevel" or "ByteLevel" in str(self._whole.decoder)
        if is_byte_level and all(character in byte_of for character in piece):
            return bytes(byte_of[character] for character in piece)
        return _bytes_of_piece(piece)

    def is_byte(self, i: int) -> bool:
        """Whether a token stands for one byte."""
        return _BYTE.fullmatch(str(self._whole.id_to_token(i))) is not None


def _bytes_of_piece(piece: str) -> bytes:
    """Of sentencepiece's way to write one: a blank as U+2581, a byte as <0xE4>."""
    if _BYTE.fullmatch(piece):
        return bytes([int(piece[3:5], 16)])
    return piece.replace("\u2581", " ").encode()


@functools.cache
def _byte_level_bytes() -> dict[str, int]:
    """Character -> byte of byte-level BPE: printable bytes stand for themselves, the others follow from 256 on.

    Source: bytes_to_unicode of openai/gpt-2, src/encoder.py.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
