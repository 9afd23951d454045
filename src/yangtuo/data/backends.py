"""One interface to both tokenizer libraries, sentencepiece and tokenizers; see `tokenizer`."""

import copy
import functools
import os
import re
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

from yangtuo.data.control_tokens import Spelled, split_as_transformers

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # how sentencepiece writes a byte as a token


class Blank(StrEnum):
    """Where a library puts a blank of its own before a text (U+2581): what continues a text must not get one.

    `AT_START`: before the first text of a whole alone; `EVERYWHERE`: also before what follows a control token.
    """

    NEVER = "never"
    AT_START = "first"
    EVERYWHERE = "always"


class SentencePiece:
    """sentencepiece's own, with the tokens that the folder adds; `words` are those of them that text may have.

    `continued` is the same model without a blank before a text, for `legacy: false`; else None.
    """

    def __init__(self, model: Any, added: dict[str, int], words: dict[str, Spelled], continued: Any = None):
        self._model, self._added, self._words, self._continued = model, added, words, continued
        self.blank = Blank.AT_START if continued else Blank.NEVER

    def encode(
        self, texts: Sequence[str], num_threads: int, continues: Sequence[bool] | None = None
    ) -> list[list[int]]:
        """Ids of plain text."""
        if not self._words:
            return _by_place(list(texts), continues, functools.partial(self._ids, num_threads=num_threads))
        pieces, flags = [], []
        for i, text in enumerate(texts):
            split = split_as_transformers(text, self._words)
            pieces.append(split)
            flags += [bool(continues and continues[i]) or j > 0 for j, piece in enumerate(split) if type(piece) is str]
        flat = [piece for split in pieces for piece in split if type(piece) is str]
        ids = iter(_by_place(flat, flags if self._continued else None, functools.partial(self._ids, num_threads=1)))
        return [[i for piece in split for i in ([piece] if type(piece) is int else next(ids))] for split in pieces]

    def _ids(self, texts: list[str], continued: bool, num_threads: int) -> list[list[int]]:
        model = self._continued if continued and self._continued else self._model
        ids: list[list[int]] = model.encode(texts, num_threads=num_threads)
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
    """tokenizers' own: `whole` knows all added tokens, `plain` only those that are not special, and encodes.

    `continued` is `plain` without a blank before a text; None where it puts none. `words`: the ids of tokens that are
    not special, behind each of which a library that puts blanks everywhere puts one.
    """

    def __init__(
        self, whole: Any, plain: Any, continued: Any = None, blank: Blank = Blank.NEVER, words: Sequence[int] = ()
    ):
        self._whole, self._plain, self._continued, self.blank = whole, plain, continued, blank
        self._words = frozenset(words if blank is Blank.EVERYWHERE else ())

    def encode(
        self, texts: Sequence[str], num_threads: int, continues: Sequence[bool] | None = None
    ) -> list[list[int]]:
        """Ids of plain text."""
        # The library takes the number of its threads from the environment, and only before its first use.
        os.environ.setdefault("RAYON_NUM_THREADS", str(num_threads))
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        return _by_place(list(texts), continues, self._ids)

    def _ids(self, texts: list[str], continued: bool) -> list[list[int]]:
        if not continued or self._continued is None:
            return [encoding.ids for encoding in self._plain.encode_batch_fast(texts, add_special_tokens=False)]
        encodings = self._continued.encode_batch(texts, add_special_tokens=False)
        return [self._from_a_word_on(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]

    def _from_a_word_on(self, text: str, encoding: Any) -> list[int]:
        """Ids of a text that continues another, with the blanks that stand behind its words."""
        ids: list[int] = encoding.ids
        at = next((k for k, i in enumerate(ids) if i in self._words), None) if self._words else None
        return ids if at is None else [*ids[:at], *self._ids([text[encoding.offsets[at][0] :]], False)[0]]

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


def _parts_of(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The normalisers and pre-tokenizers of a tokenizer.json, those within sequences too."""
    found = [content.get("normalizer") or {}, content.get("pre_tokenizer") or {}]
    for part in found:
        found += [*part.get("normalizers", []), *part.get("pretokenizers", [])]
    return found


def blank_of(content: dict[str, Any]) -> Blank:
    """Where a tokenizer.json puts a blank before a text."""
    parts = _parts_of(content)
    if any(part.get("type") == "Prepend" and part.get("prepend") == "\u2581" for part in parts):
        return Blank.EVERYWHERE
    schemes = {
        part.get("prepend_scheme", "always" if part.get("add_prefix_space", True) else "never")
        for part in parts
        if part.get("type") == "Metaspace"
    }
    return next((blank for blank in (Blank.EVERYWHERE, Blank.AT_START) if blank in schemes), Blank.NEVER)


def without_blank(content: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json that puts no blank before a text."""
    result: dict[str, Any] = copy.deepcopy(content)
    for part in _parts_of(result):
        if part.get("type") == "Metaspace":
            part["prepend_scheme"] = "never"
            part.pop("add_prefix_space", None)
        elif part.get("type") == "Prepend":
            part["prepend"] = ""
    return result


def _by_place(
    texts: list[str], continues: Sequence[bool] | None, ids_of: Callable[[list[str], bool], list[list[int]]]
) -> list[list[int]]:
    """Ids of texts that begin a whole, and of those that continue one, in the order of the texts."""
    if continues is None or not any(continues):
        return ids_of(texts, False)
    pairs = list(zip(texts, continues, strict=True))
    begin = iter(ids_of([text for text, continued in pairs if not continued], False))
    rest = iter(ids_of([text for text, continued in pairs if continued], True))
    return [next(rest if continued else begin) for continued in continues]


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
