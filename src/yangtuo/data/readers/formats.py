"""A row as it stands in a file -> the turns of a dialogue, or everything that is wrong with it.

Nothing is coerced: a null answer is a fault, never the text "None". Formats: Stanford Alpaca (with LLaMA-Factory's
`system` and `history`), ShareGPT `conversations`, OpenAI `messages`, and prompt/completion. A row may bring the tools
that the model may call, settings of the chat template, and a `weight`; one of the first and the last format a thought
before its answer. What may be left out may also be null, as it is in Parquet. A key that changes what is meant and that
we cannot follow is a fault.
"""

from collections.abc import Callable, Iterator
from typing import Any

from yangtuo.config.choices import DataFormat
from yangtuo.data.readers.json_rows import Doubled
from yangtuo.data.readers.messages import dialogue, system_of, thought_in, unused_in
from yangtuo.data.readers.row_faults import (
    NOTHING,
    is_encodable,
    meaning_faults,
    optional_faults,
    text_faults,
    weight_faults,
    weight_of,
)
from yangtuo.data.readers.shown import found as _found
from yangtuo.data.readers.shown import short as _short
from yangtuo.data.readers.shown import shown
from yangtuo.data.readers.tool_use import BESIDE, CALLS
from yangtuo.data.records import Turn
from yangtuo.data.thinking import THOUGHT_KEYS
from yangtuo.i18n import Message

_OF_ANY, _THOUGHT = {"system", "tools", "chat_template_kwargs", "weight"}, THOUGHT_KEYS[0]
COLUMNS = {
    DataFormat.ALPACA: {"instruction", "input", _THOUGHT, "output", "history", *_OF_ANY},
    DataFormat.SHAREGPT: {"conversations", *_OF_ANY},
    DataFormat.MESSAGES: {"messages", *_OF_ANY},
    DataFormat.PROMPT_COMPLETION: {"prompt", _THOUGHT, "completion", *_OF_ANY},
}
_KNOWN = {  # of a row, all that something is made of
    name: has | BESIDE | (set(THOUGHT_KEYS) if _THOUGHT in has else set()) for name, has in COLUMNS.items()
}
_LISTS = {  # which of its columns may be lists of turns
    name: [key for key in ("messages", "conversations", "prompt", "completion") if key in has]
    for name, has in COLUMNS.items()
}


def turns_of(content: Any, data_format: DataFormat) -> tuple[tuple[Turn, ...], list[str]]:
    """The turns of a row, and what is wrong with it; turns are empty where something is."""
    if not isinstance(content, dict):
        return (), [Message("expected an object, found {content}", content=_found(content))]
    if isinstance(content, Doubled):
        return (), [Message("the key {key!r} stands twice; keep one of them", key=content.key)]
    if data_format is DataFormat.ALPACA and (plain := _plain_alpaca(content)):
        return plain, []
    turns: list[Turn] = []
    faults = [*_READERS[data_format](content, turns), *meaning_faults(content), *_misplaced(content, data_format)]
    weight = weight_of(content)
    faults += weight_faults(weight)
    if faults:
        return (), faults
    if weight != 1.0:
        turns = [one._replace(trained=one.trained and weight > 0, weight=one.weight * weight) for one in turns]
    if not any(turn.trained for turn in turns):
        return (), [Message('no answer of it is trained ("train": false, or weight 0); remove the row')]
    return tuple(turns), []


def _misplaced(content: dict[str, Any], data_format: DataFormat) -> Iterator[str]:
    """Keys of a turn in the row, where nobody could say which turn they are of."""
    has_one_answer = _THOUGHT in COLUMNS[data_format]
    for key in CALLS if has_one_answer else (*CALLS, *THOUGHT_KEYS):
        if content.get(key) not in NOTHING:
            yield Message(
                "{key!r} is {content}; it belongs into a turn of 'messages' or 'conversations'",
                key=key,
                content=_short(content[key]),
            )


def unused_columns(content: dict[str, Any], data_format: DataFormat) -> set[str]:
    """Keys that nothing is made of."""
    known, unused = _KNOWN[data_format], set[str]()
    if not known.issuperset(content):  # seldom, and a million rows pass
        unused = {shown(key) for key in content.keys() - known}
    for key in _LISTS[data_format]:
        if isinstance(content.get(key), list):
            unused |= {
                f"{key}[].{shown(name)}" for turn in content[key] if isinstance(turn, dict) for name in unused_in(turn)
            }
    return unused


_PLAIN_ALPACA = {"instruction", "input", "output"}


def _plain_alpaca(row: dict[str, Any]) -> tuple[Turn, ...] | None:
    """Most rows in the shortest way: nothing wrong and nothing rare in them; None for the others."""
    instruction, addition, output = row.get("instruction"), row.get("input"), row.get("output")
    addition = "" if addition is None else addition
    if not (type(instruction) is type(output) is type(addition) is str) or not instruction.strip():
        return None
    if not row.keys() <= _PLAIN_ALPACA or not is_encodable(f"{instruction}{addition}{output}"):
        return None
    user = f"{instruction}\n{addition}" if addition else instruction
    return Turn("user", user, False), Turn("assistant", output, True)


def _alpaca(row: dict[str, Any], turns: list[Turn]) -> Iterator[str]:
    faults = [
        *text_faults(row, "instruction", Message("a text that is not empty"), may_be_empty=False),
        *text_faults(row, "output", Message("a text")),
        *optional_faults(row, "input"),
        *optional_faults(row, "system"),
    ]
    thought = thought_in(row, faults)
    yield from faults
    history = [] if row.get("history") is None else row["history"]
    history_faults = list(_history_faults(history))
    yield from history_faults
    if not faults and not history_faults:
        turns += system_of(row)
        for question, answer in history:
            turns += [Turn("user", question, trained=False), Turn("assistant", answer, trained=True)]
        addition = row.get("input")
        user = f"{row['instruction']}\n{addition}" if addition else row["instruction"]
        turns += [Turn("user", user, trained=False), Turn("assistant", row["output"], True, 1.0, thought)]


def _history_faults(history: Any) -> Iterator[str]:
    rule = Message("expected pairs of texts, question and answer")
    if not isinstance(history, list):
        yield Message("'history' is {history}; {rule}, in a list", history=_found(history), rule=rule)
        return
    for number, pair in enumerate(history):
        where = f"'history[{number}]'"
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            yield Message("{where} is {pair}; {rule}", where=where, pair=_found(pair), rule=rule)
        elif not all(map(is_encodable, pair)):
            yield Message("{where} has half of a surrogate pair, which is no character; {rule}", where=where, rule=rule)
        elif not pair[0].strip():
            yield Message("{where} has an empty question; {rule}", where=where, rule=rule)


def _prompt_completion(row: dict[str, Any], turns: list[Turn]) -> Iterator[str]:
    if isinstance(row.get("prompt"), list) and isinstance(row.get("completion"), list):  # both as messages
        yield from dialogue(row, ("prompt", "completion"), turns)
        return
    faults = [
        *text_faults(row, "prompt", Message("a text that is not empty"), may_be_empty=False),
        *text_faults(row, "completion", Message("a text")),
        *optional_faults(row, "system"),
    ]
    thought = thought_in(row, faults)
    yield from faults
    if not faults:
        turns += system_of(row)
        turns += [Turn("user", row["prompt"], trained=False), Turn("assistant", row["completion"], True, 1.0, thought)]


def _messages(row: dict[str, Any], turns: list[Turn]) -> Iterator[str]:
    yield from dialogue(row, ("messages",), turns)


def _sharegpt(row: dict[str, Any], turns: list[Turn]) -> Iterator[str]:
    yield from dialogue(row, ("conversations",), turns)


_READERS: dict[DataFormat, Callable[[dict[str, Any], list[Turn]], Iterator[str]]] = {
    DataFormat.ALPACA: _alpaca,
    DataFormat.SHAREGPT: _sharegpt,
    DataFormat.MESSAGES: _messages,
    DataFormat.PROMPT_COMPLETION: _prompt_completion,
}
