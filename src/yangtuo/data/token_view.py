"""A row's tokens as a person can look at them."""

from collections.abc import Iterator
from typing import NamedTuple

from yangtuo.data.examples import Examples
from yangtuo.data.tokenizer import Tokenizer


class TokenView(NamedTuple):
    """A token, or the tokens that make one character together.

    Attributes:
        text: what it stands for; a control token by its name.
        ids: one id, or several where a character is spelled in bytes.
        is_trained: carries a loss.
        is_control: made by the template, no text.
    """

    text: str
    ids: tuple[int, ...]
    is_trained: bool
    is_control: bool

    @property
    def is_spelled_in_bytes(self) -> bool:
        """Whether the vocabulary has no token for it."""
        return len(self.ids) > 1


def token_views(examples: Examples, i: int, tokenizer: Tokenizer) -> Iterator[TokenView]:
    """The tokens of row `i`, those that make a character together as one."""
    ids, supervised = examples.row(i)
    waiting: list[int] = []
    spelled = b""
    was_trained = False
    names: dict[int, str | None] = {}

    def taken() -> Iterator[TokenView]:
        nonlocal spelled
        if waiting:
            yield TokenView(spelled.decode(errors="replace"), tuple(waiting), was_trained, is_control=False)
            waiting.clear()
            spelled = b""

    for token, is_trained in zip(ids.tolist(), supervised.tolist(), strict=True):
        if token not in names:
            names[token] = tokenizer.name_of(token)
        name = names[token]
        if name is not None or is_trained != was_trained:
            yield from taken()  # a cut left part of a character
        was_trained = is_trained
        if name is not None:
            yield TokenView(name, (token,), is_trained, is_control=True)
            continue
        waiting.append(token)
        spelled += tokenizer.bytes_of(token)
        if _is_whole(spelled):
            yield from taken()
    yield from taken()


def _is_whole(spelled: bytes) -> bool:
    try:
        spelled.decode()
    except UnicodeDecodeError as error:
        return error.reason != "unexpected end of data"
    return True
