"""Whether a template shows all that a dialogue says: every text gets a trace of its own, to be found in what is shown.

That a short text stands in what was rendered says little: "a" stands in `assistant` too, a call's name in its tool.
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from yangtuo.data.records import Turn
from yangtuo.data.templates import TemplateFault
from yangtuo.data.thinking import parts_of, thought_beside
from yangtuo.i18n import Message

_AROUND = "\ufdd2"  # a noncharacter of Unicode, which no text may hold
_ANSWER = Message("the tokenizer's chat template changes the text of this row's turns")
_TURN = Message("the tokenizer's chat template leaves out or changes a turn of this row")
_CALL = Message("the tokenizer's chat template leaves out or changes a tool call of this row")


class Traced:
    """A dialogue in which every text, every name of a tool and every text in a call has a trace.

    Attributes:
        turns: those given, with traces.
        tools: the same.
    """

    def __init__(self, turns: Sequence[Turn], tools: Sequence[Any]):
        self._numbers = itertools.count()
        self.turns = [self._turn(turn) for turn in turns]
        self.tools = [self._tool(tool) for tool in tools]

    def check_prompt(self, prompt: str, num_turns: int, tools: Sequence[Any]) -> None:
        """What the first turns say stands in it, but for thoughts, and so do the tools.

        Raises:
            TemplateFault: what does not.
        """
        for tool, traced in zip(tools, self.tools, strict=True):
            if not _shows(prompt, _name_of(traced)):
                raise TemplateFault(
                    Message(
                        "the tokenizer's chat template does not show {name_of!r} of this row's tools (or functions), "
                        "so that tool_calls (or function_call) have no place; write them into the texts, or take a "
                        "model with tools",
                        name_of=_name_of(tool),
                    )
                )
        for turn in self.turns[:num_turns]:
            if not _shows(prompt, parts_of(turn.text).rest if turn.role == "assistant" else turn.text):
                raise TemplateFault(_TURN)
            _check_calls(prompt, turn)

    def shows_thought(self, said: str, place: int) -> bool:
        """Whether the thought of an answer stands in it."""
        turn = self.turns[place]
        return _shows(said, thought_beside(turn) or parts_of(turn.text).thought)

    def check_answer(self, said: str, place: int) -> None:
        """The answer's text and calls stand in it.

        Raises:
            TemplateFault: what does not.
        """
        if not _shows(said, parts_of(self.turns[place].text).rest):
            raise TemplateFault(_ANSWER)
        _check_calls(said, self.turns[place])

    def _turn(self, turn: Turn) -> Turn:
        text, more = self._text(turn.text), dict(turn.more or {})
        if turn.role == "assistant":
            opens, thought, closes, rest = parts_of(turn.text)
            text = opens + self._text(thought) + closes + self._text(rest)
        if thought_beside(turn):
            more["reasoning_content"] = self._text(more["reasoning_content"])
        if "tool_calls" in more:
            more["tool_calls"] = [{**call, "function": self._value(call["function"])} for call in more["tool_calls"]]
        return turn._replace(text=text, more=more or None)

    def _tool(self, tool: Any) -> Any:
        function = dict(tool["function"])
        return {**tool, "function": {**function, "name": self._text(function["name"])}}

    def _value(self, value: Any, *, is_top: bool = True) -> Any:
        """A value with traces in its texts; the keys of a call itself are no texts."""
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, dict):
            return {key if is_top else self._text(key): self._value(one, is_top=False) for key, one in value.items()}
        return [self._value(one, is_top=False) for one in value] if isinstance(value, list) else value

    def _text(self, text: str) -> str:
        """The text with a trace behind its first letter, since templates strip blanks and look at a text's begin."""
        if not text.strip():
            return text
        behind = len(text) - len(text.lstrip()) + 1
        return f"{text[:behind]}{_AROUND}{next(self._numbers)}{_AROUND}{text[behind:]}"


def _shows(rendered: str, traced: str) -> bool:
    """Whether a text stands there, as it is or in JSON."""
    text = traced.strip()
    return text in rendered or json.dumps(text, ensure_ascii=False)[1:-1] in rendered


def _check_calls(rendered: str, turn: Turn) -> None:
    for call in (turn.more or {}).get("tool_calls", ()):
        if not all(_traces(text) in rendered for text in _texts(call["function"])):
            raise TemplateFault(_CALL)


def _traces(text: str) -> str:
    """The trace in a text alone: JSON in JSON spells the rest otherwise."""
    _, around, behind = text.partition(_AROUND)
    return f"{around}{behind.partition(_AROUND)[0]}{around}"


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _texts(key)
            yield from _texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)


def _name_of(tool: Any) -> str:
    return str(tool["function"]["name"])
