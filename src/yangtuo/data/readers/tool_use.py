"""Tools in a row: which the model may call, its calls, and settings of the chat template, as the field spells them.

OpenAI's `tools` and `tool_calls` (also the older `functions` and `function_call`), ShareGPT's and LLaMA-Factory's turns
of `function_call` and `observation`, ms-swift's of `tool_call` and `tool_response`. Lists and arguments may be written
as JSON inside a text, as they are in Parquet and CSV. Results are spelled as transformers' chat templates take them.
"""

import json
from collections.abc import Mapping
from typing import Any

from yangtuo.config.unique_keys import unique
from yangtuo.data.readers.row_faults import NOTHING, nested_fault
from yangtuo.data.readers.shown import found, short, shown
from yangtuo.data.records import Turn
from yangtuo.errors import one_line
from yangtuo.i18n import Listed, Message

TOOLS, KWARGS = ("tools", "functions"), "chat_template_kwargs"
BESIDE = frozenset((*TOOLS, KWARGS))  # keys of a row that belong to no turn
CALLS = ("tool_calls", "function_call")
_TOOL = Message(
    'expected a list of objects like {{"type": "function", "function": {{"name": ..., "parameters": ...}}}}'
)
_CALL = Message('expected {{"name": ..., "arguments": {{...}}}}, or a list of such')


def beside(
    row: dict[str, Any], turns: tuple[Turn, ...]
) -> tuple[tuple[Turn, ...], tuple[Any, ...], Mapping[str, Any] | None, list[str]]:
    """The turns of a row, its tools, what its chat template is given, and what is wrong with these.

    Tools may also stand in the system's turn, as GLM-4 and MiniMax have them.
    """
    given, faults = tools_in(row)
    own = (turns[0].more or {}).get("tools")
    if own:
        turns = (turns[0]._replace(more=None), *turns[1:])
        if given:
            faults.append(Message("tools stand in the row and in its system turn; keep one of them"))
    kwargs, wrong = _parsed(row.get(KWARGS))
    if not wrong and not (kwargs in NOTHING or isinstance(kwargs, dict)):
        wrong = Message("is {value}", value=found(row[KWARGS]))
    if wrong:
        faults.append(
            Message(
                '{kwargs!r} {wrong}; expected an object, such as {{"enable_thinking": false}}',
                kwargs=KWARGS,
                wrong=wrong,
            )
        )
    return turns, given or tuple(own or ()), kwargs if isinstance(kwargs, dict) and kwargs else None, faults


def tools_in(row: Mapping[str, Any]) -> tuple[tuple[Any, ...], list[str]]:
    """The tools of a row or a turn in OpenAI's form, and what is wrong with them."""
    said = {key: row[key] for key in TOOLS if row.get(key) not in NOTHING}
    if not said:
        return (), []
    if len(said) > 1:
        return (), [Message("{said} are both there; keep one of them", said=Listed(map(repr, said), " and "))]
    key, value = next(iter(said.items()))
    listed, wrong = _parsed(value)
    if wrong:
        return (), [Message("{where} {wrong}; {rule}", where=repr(key), wrong=wrong, rule=_TOOL)]
    if listed in NOTHING:  # "[]", say
        return (), []
    made = []
    for number, tool in enumerate(listed if isinstance(listed, list) else [listed]):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not _is_name(function.get("name")):
            wrong = Message("is {value}", value=found(tool))
            return (), [Message("{where} {wrong}; {rule}", where=f"'{key}[{number}]'", wrong=wrong, rule=_TOOL)]
        made.append(tool if "function" in tool else {"type": "function", "function": tool})
    return tuple(made), []


def calls_in(turn: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """The calls that stand beside the text of a turn, and what is wrong with them."""
    said = {key: turn[key] for key in CALLS if turn.get(key) not in NOTHING}
    if len(said) > 1:
        return [], [Message("{said} are both there; keep one of them", said=Listed(map(repr, said), " and "))]
    return next((calls_of(value, repr(key)) for key, value in said.items()), ([], []))


def calls_of(value: Any, where: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Calls in OpenAI's form, their arguments as an object; and what is wrong with them."""
    listed, wrong = _parsed(value)
    if wrong:
        return [], [Message("{where} {wrong}; {rule}", where=where, wrong=wrong, rule=_CALL)]
    made = []
    for number, call in enumerate(listed if isinstance(listed, list) else [listed]):
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not _is_name(function.get("name")):
            return [], [
                Message(
                    "{where}, call {number}, is {call}; {rule}",
                    where=where,
                    number=number + 1,
                    call=found(call),
                    rule=_CALL,
                )
            ]
        arguments, wrong = _parsed(function.get("arguments"))
        arguments = {} if arguments in NOTHING else arguments
        if wrong:
            return [], [
                Message(
                    "{where}, call {number}: 'arguments' {wrong}; {rule}",
                    where=where,
                    number=number + 1,
                    wrong=wrong,
                    rule=_CALL,
                )
            ]
        if not isinstance(arguments, dict):
            return [], [
                Message(
                    "{where}, call {number}: 'arguments' is {arguments}; {rule}",
                    where=where,
                    number=number + 1,
                    arguments=found(function["arguments"]),
                    rule=_CALL,
                )
            ]
        own_id = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
        made.append({**own_id, "type": "function", "function": {"name": function["name"], "arguments": arguments}})
    return made, []


def _parsed(value: Any) -> tuple[Any, str]:
    """A value that may be written as JSON inside a text; and what is wrong with it, as a predicate of its key."""
    if not isinstance(value, str):
        return value, nested_fault(value)
    if not value.strip():
        return None, ""
    try:
        parsed = json.loads(value, object_pairs_hook=unique)
    except json.JSONDecodeError:
        return None, Message("is no JSON, {value}", value=short(value))
    except RecursionError:
        return None, Message("is nested too deeply")
    except ValueError as error:  # a key that stands twice
        return None, Message("is JSON in which {error}", error=shown(one_line(error)))
    return parsed, nested_fault(parsed)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
