"""Turns -> messages as chat templates are given them, calls in the spelling that a template takes."""

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from yangtuo.data.records import Turn
from yangtuo.data.thinking import parts_of, thought_beside

CALLS = "tool_calls"


class Spelling(NamedTuple):
    """What templates expect otherwise of messages with calls."""

    empty: str | None  # the text of a message that is a call alone
    has_text_arguments: bool
    has_ids: bool
    tool_role: str


_CHOICES = (("", None), (False, True), (False, True), ("tool", "observation"))
SPELLINGS = [Spelling(*one) for one in itertools.product(*_CHOICES)]  # the first that a template takes is used
# What is asked in every spelling to find the one that a template expects.
PROBE_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
_PROBE_CALL = {"type": "function", "function": {"name": "f", "arguments": {"k": "v"}}}
PROBE = (
    Turn("user", "q", trained=False),
    Turn("assistant", "", True, 1.0, {CALLS: [_PROBE_CALL]}),
    Turn("tool", "r", trained=False),
    Turn("assistant", "t", trained=True),
)


def has_calls(turn: Turn) -> bool:
    """Whether an answer calls tools."""
    return CALLS in (turn.more or ())


def messages_of(
    turns: Sequence[Turn], spelling: Spelling, thought_key: str, *, splits_thoughts: bool
) -> list[dict[str, Any]]:
    """The messages of a dialogue.

    Args:
        turns: it.
        spelling: of calls and what they give back.
        thought_key: under which the template looks for a thought.
        splits_thoughts: whether it finds one there alone, and not in the text.
    """
    made, waiting = [], []  # ids of calls without a result
    for number, turn in enumerate(turns):
        more = {thought_key if key == "reasoning_content" else key: one for key, one in (turn.more or {}).items()}
        if CALLS in more:
            more[CALLS] = [_spelled(call, f"call{number:03}{i:02}", spelling) for i, call in enumerate(more[CALLS])]
            waiting = [call["id"] for call in more[CALLS] if "id" in call]
        if turn.role == "tool" and spelling.has_ids:
            own = more.setdefault("tool_call_id", waiting[0] if waiting else f"call{number:03}00")
            waiting = [one for one in waiting if one != own]
        text = turn.text
        if splits_thoughts and turn.role == "assistant" and not thought_beside(turn):
            _, thought, _, rest = parts_of(text)
            if thought.strip():
                more[thought_key], text = thought.strip(), rest
        role = spelling.tool_role if turn.role == "tool" else turn.role
        made.append({"role": role, "content": text if text or CALLS not in more else spelling.empty, **more})
    return made


def _spelled(call: Mapping[str, Any], call_id: str, spelling: Spelling) -> dict[str, Any]:
    function = dict(call["function"])
    if spelling.has_text_arguments and not isinstance(function["arguments"], str):
        function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
    return {**({"id": call_id} if spelling.has_ids else {}), **call, "function": function}
