"""Control tokens that people spelled in their texts, hidden while a template renders these.

Whatever control token stands in the rendered text is then the template's own, wherever the template put the words.
"""

import re
from collections.abc import Sequence
from typing import Any

from yangtuo.data.records import Turn
from yangtuo.data.templates import Piece
from yangtuo.data.thinking import parts_of

# Noncharacters of Unicode, which no text may hold; one that does has them hidden too.
_OPENS, _CLOSES = "\ufdd0", "\ufdd1"
_HIDDEN = re.compile(f"{_OPENS}(.){_CLOSES}")
_FIRST = 0xF0000  # a plane of private use, since some vocabularies have thousands of control tokens


class HiddenControls:
    """Hides control tokens in values and shows them again."""

    def __init__(self, controls: Sequence[str]):
        self._tokens = (*controls, _OPENS, _CLOSES)
        longest_first = sorted(self._tokens, key=len, reverse=True)
        self._found = re.compile("|".join(map(re.escape, longest_first)))
        self._numbers = {token: chr(_FIRST + i) for i, token in enumerate(self._tokens)}

    def hide(self, value: Any) -> Any:
        """The value with the control tokens of every text in it hidden."""
        if isinstance(value, str):
            return self._found.sub(lambda found: f"{_OPENS}{self._numbers[found.group()]}{_CLOSES}", value)
        if isinstance(value, dict):
            return {self.hide(key): self.hide(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self.hide(one) for one in value]
        return value

    def hide_turn(self, turn: Turn) -> Turn:
        """A turn with all that is said in it hidden; the marks of a thought in an answer's text are what they mean."""
        text = self.hide(turn.text)
        if turn.role == "assistant":
            opens, thought, closes, rest = parts_of(turn.text)
            text = opens + self.hide(thought) + closes + self.hide(rest)
        return turn._replace(text=text, more=self.hide(dict(turn.more)) if turn.more else None)

    def shown(self, text: str) -> str:
        """The text as it was written."""
        return _HIDDEN.sub(lambda found: self._tokens[ord(found.group(1)) - _FIRST], text) if _OPENS in text else text

    def pieces(self, text: str) -> tuple[Piece, ...]:
        """Rendered text: what was hidden is somebody's words, the rest may hold control tokens of the template."""
        if _OPENS not in text:
            return (Piece(text, is_frame=True),)
        parts = re.split(f"({_OPENS}.{_CLOSES})", text)
        return tuple(Piece(self.shown(part), is_frame=i % 2 == 0) for i, part in enumerate(parts) if part)

    def has_control(self, text: str) -> bool:
        """Whether the template wrote a control token in it."""
        return self._found.search(_HIDDEN.sub(" ", text)) is not None
