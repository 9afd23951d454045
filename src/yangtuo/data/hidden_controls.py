"""Control tokens that people spelled in their texts, hidden while a template renders these.

Whatever control token stands in the rendered text is then the template's own, wherever the template put the words.
"""

import re
from collections.abc import Sequence
from typing import Any

from yangtuo.data.templates import Piece
from yangtuo.data.thinking import MARKS

# Noncharacters of Unicode, which no text may hold; one that does has them hidden too.
_OPENS, _CLOSES = "\ufdd0", "\ufdd1"
_HIDDEN = re.compile(f"{_OPENS}(.){_CLOSES}")
_STRUCTURE = {mark for marks in MARKS for mark in marks}


class HiddenControls:
    """Hides control tokens in values and shows them again."""

    def __init__(self, controls: Sequence[str]):
        self._tokens = (*controls, _OPENS, _CLOSES)
        longest_first = sorted(self._tokens, key=len, reverse=True)
        self._found = re.compile("|".join(map(re.escape, longest_first)))
        self._of_thoughts = re.compile("|".join(re.escape(one) for one in longest_first if one not in _STRUCTURE))
        self._numbers = {token: chr(0xE000 + i) for i, token in enumerate(self._tokens)}

    def hide(self, value: Any, *, has_thought: bool = False) -> Any:
        """The value with every text in it hidden; the marks of a thought are none where an answer has one."""
        if isinstance(value, str):
            pattern = self._of_thoughts if has_thought else self._found
            return pattern.sub(lambda found: f"{_OPENS}{self._numbers[found.group()]}{_CLOSES}", value)
        if isinstance(value, dict):
            hidden = (self.hide(one, has_thought=has_thought) for one in value.values())
            return {self.hide(key): one for key, one in zip(value, hidden, strict=True)}
        if isinstance(value, list | tuple):
            return [self.hide(one, has_thought=has_thought) for one in value]
        return value

    def shown(self, text: str) -> str:
        """The text as it was written."""
        return _HIDDEN.sub(lambda found: self._tokens[ord(found.group(1)) - 0xE000], text) if _OPENS in text else text

    def pieces(self, text: str) -> tuple[Piece, ...]:
        """Rendered text: what was hidden is somebody's words, the rest may hold control tokens of the template."""
        if _OPENS not in text:
            return (Piece(text, is_frame=True),)
        parts = re.split(f"({_OPENS}.{_CLOSES})", text)
        return tuple(Piece(self.shown(part), is_frame=i % 2 == 0) for i, part in enumerate(parts) if part)

    def has_control(self, text: str) -> bool:
        """Whether the template wrote a control token in it."""
        return self._found.search(_HIDDEN.sub("", text)) is not None
