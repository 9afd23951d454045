"""How densely a tokenizer writes text: tokens a character, of all text and of Chinese."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from yangtuo.data.tokenizer import Tokenizer

_BATCH_TEXTS = 1024
_HAN = (  # Unicode's blocks of Chinese characters, first and last code point
    (0x3007, 0x3007),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x323AF),
)


@dataclass(frozen=True)
class Density:
    """What a tokenizer made of some texts.

    Attributes:
        num_texts: texts, each encoded by itself without BOS and EOS.
        num_characters: code points.
        num_tokens: tokens.
        num_byte_tokens: those that stand for bytes and no character: byte fallback, or a part of a character.
        num_chinese: Chinese characters, in texts whose tokens could be laid beside their bytes.
        chinese_tokens: tokens for them; a token that other characters share counts by its share of bytes.
        num_unaligned: texts whose tokens do not spell them, as with a normalising tokenizer; left out of the two above.
    """

    num_texts: int = 0
    num_characters: int = 0
    num_tokens: int = 0
    num_byte_tokens: int = 0
    num_chinese: int = 0
    chinese_tokens: float = 0.0
    num_unaligned: int = 0

    def per_character(self) -> float | None:
        """Tokens a character, None without any."""
        return self.num_tokens / self.num_characters if self.num_characters else None

    def per_chinese_character(self) -> float | None:
        """Tokens a Chinese character, None without any."""
        return self.chinese_tokens / self.num_chinese if self.num_chinese else None

    def byte_share(self) -> float | None:
        """Share of byte tokens among all, None without any."""
        return self.num_byte_tokens / self.num_tokens if self.num_tokens else None


def density(tokenizer: Tokenizer, texts: Iterable[str]) -> Density:
    """Encode all texts and count."""
    spelled: dict[int, bytes] = {}
    is_byte = np.zeros(tokenizer.num_tokens, bool)
    counts = np.zeros(6, np.int64)
    chinese_tokens = 0.0
    waiting = iter(texts)
    while batch := list(islice(waiting, _BATCH_TEXTS)):
        for text, ids in zip(batch, tokenizer.encode(batch), strict=True):
            for i in set(ids) - spelled.keys():
                spelled[i] = tokenizer.bytes_of(i)
                is_byte[i] = _is_byte(tokenizer, i, spelled[i])
            found = _chinese(text, [spelled[i] for i in ids])
            num_chinese, tokens = found or (0, 0.0)
            counts += (1, len(text), len(ids), int(is_byte[ids].sum()), num_chinese, found is None)
            chinese_tokens += tokens
    num_texts, num_characters, num_tokens, num_byte_tokens, num_chinese, num_unaligned = map(int, counts)
    return Density(num_texts, num_characters, num_tokens, num_byte_tokens, num_chinese, chinese_tokens, num_unaligned)


def num_chinese(text: str) -> int:
    """Chinese characters in a text."""
    return int(_points(text)[1].sum())


def _points(text: str) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.bool_]]:
    """The code points of a text, and which of them are Chinese characters."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    han = np.zeros(len(points), bool)
    for first, last in _HAN:
        han |= (points >= first) & (points <= last)
    return points, han


def _is_byte(tokenizer: Tokenizer, i: int, spelled: bytes) -> bool:
    try:
        spelled.decode()
    except UnicodeDecodeError:
        return True
    return len(spelled) == 1 and tokenizer.id_of(f"<0x{spelled[0]:02X}>") == i


def _chinese(text: str, tokens: list[bytes]) -> tuple[int, float] | None:
    """Number of Chinese characters and of their tokens; None where the tokens do not spell the text."""
    data, joined = text.encode(errors="surrogatepass"), b"".join(tokens)
    if joined not in (data, b" " + data):  # LLaMA's puts a blank before a text
        return None
    points, han = _points(text)
    sizes = 1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000)
    is_chinese = np.concatenate([np.zeros(len(joined) - len(data), bool), np.repeat(han, sizes)])
    until = np.concatenate([[0], np.cumsum(is_chinese)])
    lengths = np.array([len(token) for token in tokens], np.int64)
    ends = np.cumsum(lengths)
    return int(han.sum()), float(((until[ends] - until[ends - lengths]) / np.maximum(lengths, 1)).sum())
