"""Tokens one by one -> text as it grows, in whole characters.

A Chinese character or an emoji may take several tokens: bytes of sentencepiece's fallback, or pieces of byte-level BPE
that end inside a character. Until the last of them is there, decoding gives U+FFFD in its place.
"""

from collections.abc import Sequence

from yangtuo.data.tokenizer import Tokenizer

_NO_CHARACTER = "\ufffd"


class GrowingText:
    """The text of a growing list of tokens.

    What `push` and `rest` have returned, put together, is the text of all tokens decoded at once.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._told = ""

    @property
    def told(self) -> str:
        """What has been returned so far."""
        return self._told

    def push(self, token: int) -> str:
        """What another token adds for sure; "" while a character is not whole."""
        self._ids.append(token)
        # A decoder may judge a run of bytes as a whole, so that a bad one takes the good ones before it with it; a
        # token without text (a control token) does not end the run.
        if self._tokenizer.is_byte(token) or not self._tokenizer.decode([token]):
            return ""
        return self._until(self._tokenizer.decode(self._ids).rstrip(_NO_CHARACTER))

    def rest(self) -> str:
        """What is left at the end: characters spelled in bytes, also those that will never be whole."""
        return self._until(self._tokenizer.decode(self._ids))

    def whole_rest(self) -> str:
        """The same without a character that was cut short."""
        return self._until(self._tokenizer.decode(self._ids).rstrip(_NO_CHARACTER))

    def _until(self, text: str) -> str:
        new = text[len(self._told) :] if text.startswith(self._told) else ""
        self._told += new
        return new


def text_of(tokenizer: Tokenizer, ids: Sequence[int], *, is_whole: bool) -> str:
    """The text of an answer's tokens, without a character that was cut short where it did not end by itself."""
    text = tokenizer.decode(list(ids))
    return text if is_whole else text.rstrip(_NO_CHARACTER)
