"""A list of turns as a file has it -> turns of a dialogue, or everything that is wrong with it.

A turn says its role and its text; an answer may have a thought and calls of tools beside it. It may say
`"train": false` (or `loss` or `training`, as other tools call it) and carry a `weight`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from yangtuo.data.readers.json_rows import Doubled
from yangtuo.data.readers.row_faults import (
    NOTHING,
    is_encodable,
    meaning_faults,
    nested_fault,
    optional_faults,
    text_faults,
    weight_faults,
    weight_of,
)
from yangtuo.data.readers.shown import found as _found
from yangtuo.data.readers.shown import keys_of as _keys
from yangtuo.data.readers.shown import short as _short
from yangtuo.data.readers.tool_use import CALLS, TOOLS, calls_in, calls_of, tools_in
from yangtuo.data.records import Turn
from yangtuo.data.thinking import THOUGHT_KEYS, thought_of
from yangtuo.i18n import Listed, Message

_CALL = "call"  # a turn whose text is a call
_ROLES = {
    **{name: "system" for name in ("system", "developer")},
    **{name: "user" for name in ("user", "human")},
    **{name: "assistant" for name in ("assistant", "gpt", "bot", "model", "chatgpt")},
    **{name: _CALL for name in ("function_call", "tool_call")},
    **{name: "tool" for name in ("tool", "observation", "function", "ipython", "tool_response")},
}
_SPEAKERS = ("system", "user", "assistant")
_TRAIN = ("train", "loss", "training")  # ours and OpenPipe's; ms-swift's and LLaMA-Factory's; axolotl's
_OF_TOOL = ("name", "tool_call_id")
_IN_TURN = {"role", "content", "from", "value", "weight", *_TRAIN, *CALLS, *THOUGHT_KEYS, *TOOLS}


def dialogue(row: dict[str, Any], keys: Sequence[str], turns: list[Turn]) -> Iterator[str]:
    """Add the turns that a row has under these keys, one after another; yields what is wrong.

    Of several keys, the last one's answers alone carry a loss.
    """
    faults = list(optional_faults(row, "system"))
    places: list[str] = []
    for key in keys:
        listed = row.get(key)
        if key not in row:
            faults.append(Message("no {key!r} (keys: {keys}); expected a list of turns", key=key, keys=_keys(row)))
        elif not isinstance(listed, list) or not listed:
            faults.append(
                Message(
                    "{key!r} is {listed}; expected a list of turns that is not empty", key=key, listed=_found(listed)
                )
            )
        else:
            for number, turn in enumerate(listed):
                place = f"{key}[{number}]"
                if plain := _plain_turn(turn):
                    turns.append(plain)
                    places.append(place)
                else:
                    faults += _turn(turn, place, turns, places)
            if key != keys[-1]:
                turns[:] = [turn._replace(trained=False) for turn in turns]
    has_system = any(turn.role == "system" for turn in turns)
    if isinstance(row.get("system"), str) and (row["system"] or not has_system):  # else the turn says more
        turns[:0] = system_of(row)
        places.insert(0, "'system'")
    yield from faults or _order_faults(turns, places)


def system_of(row: dict[str, Any]) -> list[Turn]:
    """The row's own system prompt; an empty one asks for none, where the template has one of its own."""
    return [] if row.get("system") is None else [Turn("system", row["system"], trained=False)]


def unused_in(turn: dict[str, Any]) -> set[str]:
    """Keys of a turn that nothing is made of."""
    if _IN_TURN.issuperset(turn):
        return set()
    role = turn.get("role", turn.get("from"))
    is_tool = isinstance(role, str) and _ROLES.get(role.lower()) == "tool"
    return turn.keys() - _IN_TURN - (set(_OF_TOOL) if is_tool else set())


def thought_in(said: dict[str, Any], faults: list[str]) -> dict[str, Any] | None:
    """The thought that stands beside an answer, as `Turn.more`; adds what is wrong with it."""
    given = {key: said[key] for key in THOUGHT_KEYS if said.get(key) not in NOTHING and not _is_blank(said[key])}
    if not given:
        return None
    for key in given:
        faults += text_faults(said, key, Message("a text, the thought before the answer"))
    if len(set(map(str, given.values()))) > 1:
        faults.append(
            Message("{given} contradict each other; keep one of them", given=Listed(map(repr, given), " and "))
        )
    return {"reasoning_content": next(iter(given.values()))}


def _is_blank(value: Any) -> bool:
    return isinstance(value, str) and not value.strip()


def _plain_turn(turn: Any) -> Turn | None:
    """Most turns in the shortest way: nothing wrong and nothing but role and text in them; None for the others."""
    if type(turn) is not dict or len(turn) != 2:
        return None
    role, text = (turn.get("role"), turn.get("content")) if "role" in turn else (turn.get("from"), turn.get("value"))
    role = _ROLES.get(role) if type(role) is str else None
    if (
        role not in _SPEAKERS
        or type(text) is not str
        or not is_encodable(text)
        or (role == "user" and not text.strip())
    ):
        return None
    return Turn(role, text, role == "assistant")


def _turn(turn: Any, where: str, turns: list[Turn], places: list[str]) -> Iterator[str]:
    if not isinstance(turn, dict):
        yield Message("{where} is {turn}; expected an object with role and content", where=where, turn=_found(turn))
        return
    if isinstance(turn, Doubled):
        yield Message("{where}: the key {key!r} stands twice; keep one of them", where=where, key=turn.key)
        return
    named, text_key = ("role", "content") if "role" in turn or "content" in turn else ("from", "value")
    given = turn.get(named)
    role = _ROLES.get(given.lower()) if isinstance(given, str) else None
    if role is None:
        found = _short(given) if named in turn else Message("not there (keys: {keys})", keys=_keys(turn))
        yield Message(
            "{where}: {named!r} is {found}; expected one of {roles}",
            where=where,
            named=named,
            found=found,
            roles=", ".join(_ROLES),
        )
    faults: list[str] = list(meaning_faults(turn))
    calls, more = _more(turn, role, text_key, faults)
    text = _text(turn, role, text_key, has_calls=bool(calls), faults=faults)
    if more and "reasoning_content" in more and thought_of(Turn("assistant", text, trained=False)):
        faults.append(
            Message("there is a thought beside {text_key!r} and another inside it; keep one of them", text_key=text_key)
        )
    trained, weight = _loss(turn, role, faults)
    yield from (Message("{where}: {fault}", where=where, fault=fault) for fault in faults)
    if role and not faults:
        made = Turn("assistant" if role == _CALL else role, text, trained and weight > 0, float(weight), more or None)
        if role == _CALL and turns and turns[-1].role == "assistant":
            wrong = _joining_faults(turns[-1], made)
            yield from (Message("{where}: {fault}", where=where, fault=fault) for fault in wrong)
            turns[-1] = _joined(turns[-1], made)  # what was said before the call, or a call beside it
        else:
            turns.append(made)
            places.append(where)


def _more(
    turn: dict[str, Any], role: str | None, text_key: str, faults: list[str]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The calls of a turn, and what else its message has beside role and text."""
    more: dict[str, Any] = {}
    faults += [
        Message(
            "{key!r} is {turn} in a turn of the {role}; tools belong at the top of the row, or in its system turn",
            key=key,
            turn=_short(turn[key]),
            role=role,
        )
        for key in TOOLS
        if role not in (None, "system") and turn.get(key) not in NOTHING
    ]
    if role in ("assistant", _CALL):
        more |= thought_in(turn, faults) or {}
        calls, wrong = calls_in(turn)
        if role == _CALL and not wrong and text_key in turn:
            calls, wrong = calls_of(turn[text_key], repr(text_key))
        faults += wrong
        return calls, more | ({"tool_calls": calls} if calls else {})
    faults += [
        Message(
            "{key!r} is {turn} in a turn of the {role}; only an answer has it",
            key=key,
            turn=_short(turn[key]),
            role=role,
        )
        for key in (*CALLS, *THOUGHT_KEYS)
        if role and turn.get(key) not in NOTHING
    ]
    if role == "system":
        tools, wrong = tools_in(turn)
        faults += wrong
        return [], {"tools": tools} if tools else {}
    own = {key: turn[key] for key in _OF_TOOL if role == "tool" and isinstance(turn.get(key), str)}
    faults += [f"{key!r} {fault}" for key, text in own.items() if (fault := nested_fault(text))]
    return [], own


def _text(turn: dict[str, Any], role: str | None, key: str, *, has_calls: bool, faults: list[str]) -> str:
    """What a turn says; adds what is wrong with it."""
    value = turn.get(key)
    if role == _CALL or (has_calls and value is None):
        return ""
    if isinstance(value, list) and value and all(_is_text_part(part) for part in value):
        turn = {**turn, key: "\n".join(part["text"] for part in value)}
    elif role == "tool" and isinstance(value, dict | list):
        if wrong := nested_fault(value):
            faults.append(f"{key!r} {wrong}")
            return ""
        turn = {**turn, key: json.dumps(value, ensure_ascii=False)}
    faults += text_faults(turn, key, Message("a text"), may_be_empty=role != "user")
    return str(turn.get(key) or "")


def _is_text_part(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _loss(turn: Mapping[str, Any], role: str | None, faults: list[str]) -> tuple[bool, Any]:
    """Whether a turn carries a loss, and how much its tokens count; adds what is wrong with what it says of it."""
    is_answer = role in ("assistant", _CALL)
    said, weight = {key: turn[key] for key in _TRAIN if turn.get(key) is not None}, weight_of(dict(turn))
    key, train = next(iter(said.items()), ("train", is_answer))
    if len(set(map(str, said.values()))) > 1:
        both = Listed(map(repr, said), " and ")
        faults.append(Message("{both} contradict each other; keep one of them", both=both))
    elif not isinstance(train, bool) and train not in (0, 1):
        faults.append(Message("{key!r} is {train}; expected true or false", key=key, train=_short(train)))
    elif train and role and not is_answer:
        faults.append(
            Message("{key!r} is true for a turn of the {role}; only answers can be trained", key=key, role=role)
        )
    faults += weight_faults(weight)
    return bool(train), weight


def _joining_faults(before: Turn, call: Turn) -> Iterator[str]:
    if thought_of(call) and (before.text.strip() or before.more):
        yield Message(
            "its thought comes after the text of the turn before; move it to that turn, since both are one answer"
        )
    if (before.trained, before.weight) != (call.trained, call.weight):
        yield Message("it and the turn before are one answer, and 'train' or 'weight' differ; give both the same")


def _joined(before: Turn, call: Turn) -> Turn:
    """One answer of a text, or a call, and a further call."""
    known, more = dict(before.more or {}), dict(call.more or {})
    calls = [*known.pop("tool_calls", ()), *more.pop("tool_calls", ())]
    return before._replace(more={**more, **known, "tool_calls": calls}, trained=before.trained and call.trained)


_NEXT: dict[str | None, tuple[str, ...]] = {
    None: ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),  # a call may also be spelled in the answer's text
    "tool": ("assistant", "tool"),
}


def _order_faults(turns: Sequence[Turn], places: Sequence[str]) -> Iterator[str]:
    begin = 1 if turns and turns[0].role == "system" else 0
    before = None
    for turn, place in zip(turns[begin:], places[begin:], strict=True):
        if turn.role not in _NEXT[before]:
            yield Message(
                "{place} is a turn of the {role}; expected {next}: at most one system turn at the start, then "
                "user and assistant in turn, with turns of tools behind their calls",
                place=place,
                role=turn.role,
                next=Listed(_NEXT[before], " or "),
            )
            return
        before = turn.role
    if before is None:
        yield Message("no turn of the user and the assistant")
    elif before != "assistant":
        yield Message(
            "{places}, the last turn, is the {before}'s, and nothing answers it; remove it or add the answer",
            places=places[-1],
            before=before,
        )
