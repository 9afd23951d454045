"""A row as it stands in a file -> the turns of a dialogue, or everything that is wrong with it.

Nothing is coerced: a null answer is a fault, never the text "None". Formats: Stanford Alpaca (with LLaMA-Factory's
`system` and `history`), ShareGPT `conversations`, OpenAI `messages`, and prompt/completion. A turn may say
`"train": false` (or `loss` or `training`, as other tools call it), a row and a turn may carry a `weight`. What may be
left out may also be null, as it is in Parquet. A key that changes what is meant and that we cannot follow is a fault.
"""

from collections.abc import Callable, Iterator
from typing import Any

from yangtuo.config.choices import DataFormat
from yangtuo.data.readers.json_rows import Doubled
from yangtuo.data.readers.shown import found as _found
from yangtuo.data.readers.shown import keys_of as _keys
from yangtuo.data.readers.shown import short as _short
from yangtuo.data.readers.shown import shown
from yangtuo.data.records import Turn

_HEAVIEST = 1_000_000
_ROLES = {
    "system": "system",
    **{name: "user" for name in ("user", "human")},
    **{name: "assistant" for name in ("assistant", "gpt", "bot", "model", "chatgpt")},
}
COLUMNS = {
    DataFormat.ALPACA: {"instruction", "input", "output", "system", "history", "weight"},
    DataFormat.SHAREGPT: {"conversations", "system", "weight"},
    DataFormat.MESSAGES: {"messages", "system", "weight"},
    DataFormat.PROMPT_COMPLETION: {"prompt", "completion", "system", "weight"},
}
_LISTS = {  # which of its columns may be lists of turns
    name: [key for key in ("messages", "conversations", "prompt", "completion") if key in has]
    for name, has in COLUMNS.items()
}
_TRAIN = ("train", "loss", "training")  # ours and OpenPipe's; ms-swift's and LLaMA-Factory's; axolotl's
_IN_TURN = {"role", "content", "from", "value", "weight", *_TRAIN}
_CALL = "calls of tools cannot be trained; write the call into the turn's text"
_MEDIA = "pictures, sound and films cannot be trained on"
_PREFERENCE = "pairs of a better and a worse answer are for DPO, which this program does not do; keep the better answer"
_MASK = 'which tokens carry a loss is said by "train": true or false'
# Keys that change what a row or a turn means; where they hold something, it is a fault. Others are told as not used.
_MEANING = {
    **dict.fromkeys(("tool_calls", "function_call"), _CALL),
    **dict.fromkeys(("tools", "functions"), "tools cannot be rendered; write them into the system prompt"),
    **dict.fromkeys(("images", "image", "videos", "video", "audios", "audio", "image_url"), _MEDIA),
    **dict.fromkeys(("chosen", "rejected", "rejected_response", "rejected_messages"), _PREFERENCE),
    **dict.fromkeys(("loss_mask", "mask", "masked"), _MASK),
    **dict.fromkeys(
        ("reasoning_content", "reasoning", "thinking", "thought"),
        "a thought beside the answer cannot be trained; write it into the answer's text, as <think>...</think>",
    ),
}


def turns_of(content: Any, data_format: DataFormat) -> tuple[tuple[Turn, ...], list[str]]:
    """The turns of a row, and what is wrong with it; turns are empty where something is."""
    if not isinstance(content, dict):
        return (), [f"expected an object, found {_found(content)}"]
    if isinstance(content, Doubled):
        return (), [f"the key {content.key!r} stands twice; keep one of them"]
    if data_format is DataFormat.ALPACA and (plain := _plain_alpaca(content)):
        return plain, []
    turns: list[Turn] = []
    faults = [*_READERS[data_format](content, turns), *_meaning_faults(content)]
    weight = _weight(content)
    faults += _weight_faults(weight)
    if not faults:
        faults += _order_faults(turns, _places(content, data_format, len(turns)))
    if faults:
        return (), faults
    if weight != 1.0:
        turns = [Turn(turn.role, turn.text, turn.trained and weight > 0, turn.weight * weight) for turn in turns]
    if not any(turn.trained for turn in turns):
        return (), ['no answer of it is trained ("train": false, or weight 0); remove the row']
    return tuple(turns), []


def unused_columns(content: dict[str, Any], data_format: DataFormat) -> set[str]:
    """Keys that nothing is made of."""
    unused = {shown(key) for key in content.keys() - COLUMNS[data_format]}
    for key in _LISTS[data_format]:
        if isinstance(content.get(key), list):
            unused |= {
                f"{key}[].{shown(name)}"
                for turn in content[key]
                if isinstance(turn, dict)
                for name in turn.keys() - _IN_TURN
            }
    return unused


def _places(content: dict[str, Any], data_format: DataFormat, num_turns: int) -> list[str]:
    """What a user calls each turn of a dialogue; the one that is not listed is the row's own system prompt."""
    listed = [key for key in _LISTS[data_format] if isinstance(content.get(key), list)]
    places = [f"{key}[{number}]" for key in listed for number in range(len(content[key]))]
    return ["'system'"] * (num_turns - len(places)) + places


_PLAIN_ALPACA = {"instruction", "input", "output"}


def _plain_alpaca(row: dict[str, Any]) -> tuple[Turn, ...] | None:
    """Most rows in the shortest way: nothing wrong and nothing rare in them; None for the others."""
    instruction, addition, output = row.get("instruction"), row.get("input"), row.get("output")
    addition = "" if addition is None else addition
    if not (type(instruction) is type(output) is type(addition) is str) or not instruction.strip():
        return None
    if not row.keys() <= _PLAIN_ALPACA or not _is_encodable(f"{instruction}{addition}{output}"):
        return None
    user = f"{instruction}\n{addition}" if addition else instruction
    return Turn("user", user, False), Turn("assistant", output, True)


def _alpaca(row: dict[str, Any], turns: list[Turn]) -> Iterator[str]:
    faults = [
        *_text_faults(row, "instruction", "a text that is not empty", may_be_empty=False),
        *_text_faults(row, "output", "a text"),
        *_optional_faults(row, "input"),
        *_optional_faults(row, "system"),
    ]
    yield from faults
    history = [] if row.get("history") is None else row["history"]
    history_faults = list(_history_faults(history))
    yield from history_faults
    if not faults and not history_faults:
        turns += _system(row)
        for question, answer in history:
            turns += [Turn("user", question, trained=False), Turn("assistant", answer, trained=True)]
        addition = row.get("input")
        user = f"{row['instruction']}\n{addition}" if addition else row["instruction"]
        turns += [Turn("user", user, trained=False), Turn("assistant", row["output"], trained=True)]


def _history_faults(history: Any) -> Iterator[str]:
    rule = "expected pairs of texts, question and answer"
    if not isinstance(history, list):
        yield f"'history' is {_found(history)}; {rule}, in a list"
        return
    for number, pair in enumerate(history):
        where = f"'history[{number}]'"
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            yield f"{where} is {_found(pair)}; {rule}"
        elif not all(map(_is_encodable, pair)):
            yield f"{where} has half of a surrogate pair, which is no character; {rule}"
        elif not pair[0].strip():
            yield f"{where} has an empty question; {rule}"


def _prompt_completion(row: dict[str, Any], turns: list[Turn]) -> Iterator[str]:
    if isinstance(row.get("prompt"), list) and isinstance(row.get("completion"), list):  # both as messages
        asked: list[Turn] = []
        yield from _dialogue(row, "prompt", asked)
        turns += [Turn(turn.role, turn.text, trained=False) for turn in asked]
        yield from _dialogue({"completion": row["completion"]}, "completion", turns)
        return
    faults = [
        *_text_faults(row, "prompt", "a text that is not empty", may_be_empty=False),
        *_text_faults(row, "completion", "a text"),
        *_optional_faults(row, "system"),
    ]
    yield from faults
    if not faults:
        turns += _system(row)
        turns += [Turn("user", row["prompt"], trained=False), Turn("assistant", row["completion"], trained=True)]


def _messages(row: dict[str, Any], turns: list[Turn]) -> Iterator[str]:
    yield from _dialogue(row, "messages", turns)


def _sharegpt(row: dict[str, Any], turns: list[Turn]) -> Iterator[str]:
    yield from _dialogue(row, "conversations", turns)


_READERS: dict[DataFormat, Callable[[dict[str, Any], list[Turn]], Iterator[str]]] = {
    DataFormat.ALPACA: _alpaca,
    DataFormat.SHAREGPT: _sharegpt,
    DataFormat.MESSAGES: _messages,
    DataFormat.PROMPT_COMPLETION: _prompt_completion,
}


def _dialogue(row: dict[str, Any], key: str, turns: list[Turn]) -> Iterator[str]:
    if key not in row:
        yield f"no {key!r} (keys: {_keys(row)}); expected a list of turns"
        return
    listed = row[key]
    if not isinstance(listed, list) or not listed:
        yield f"{key!r} is {_found(listed)}; expected a list of turns that is not empty"
        return
    yield from _optional_faults(row, "system")
    for number, turn in enumerate(listed):
        yield from _turn(turn, f"{key}[{number}]", turns)
    has_system = any(turn.role == "system" for turn in turns)
    if isinstance(row.get("system"), str) and (row["system"] or not has_system):  # else the turn says more
        turns[:0] = _system(row)


def _system(row: dict[str, Any]) -> list[Turn]:
    """The row's own system prompt; an empty one asks for none, where the template has one of its own."""
    return [] if row.get("system") is None else [Turn("system", row["system"], trained=False)]


def _turn(turn: Any, where: str, turns: list[Turn]) -> Iterator[str]:
    if not isinstance(turn, dict):
        yield f"{where} is {_found(turn)}; expected an object with role and content"
        return
    if isinstance(turn, Doubled):
        yield f"{where}: the key {turn.key!r} stands twice; keep one of them"
        return
    named, text_key = ("role", "content") if "role" in turn or "content" in turn else ("from", "value")
    given = turn.get(named)
    role = _ROLES.get(given.lower()) if isinstance(given, str) else None
    if role is None:
        found = _short(given) if named in turn else f"not there (keys: {_keys(turn)})"
        yield f"{where}: {named!r} is {found}; expected one of {', '.join(_ROLES)}"
    yield from (f"{where}: {fault}" for fault in _meaning_faults(turn))
    faults = [f"{where}: {fault}" for fault in _text_faults(turn, text_key, "a text", may_be_empty=role != "user")]
    said, weight = {key: turn[key] for key in _TRAIN if turn.get(key) is not None}, _weight(turn)
    key, train = next(iter(said.items()), ("train", role == "assistant"))
    if len(set(map(str, said.values()))) > 1:
        faults.append(f"{where}: {' and '.join(map(repr, said))} contradict each other; keep one of them")
    elif not isinstance(train, bool) and train not in (0, 1):
        faults.append(f"{where}: {key!r} is {_short(train)}; expected true or false")
    elif train and role in ("user", "system"):
        faults.append(f"{where}: {key!r} is true for a turn of the {role}; only answers can be trained")
    faults += [f"{where}: {fault}" for fault in _weight_faults(weight)]
    yield from faults
    if role and not faults:
        turns.append(Turn(role, turn[text_key], trained=bool(train) and weight > 0, weight=float(weight)))


def _meaning_faults(given: dict[str, Any]) -> Iterator[str]:
    for key in _MEANING:
        if given.get(key) not in (None, "", [], {}):
            yield f"{key!r} is {_short(given[key])}: {_MEANING[key]}; remove the row, or the key where it means nothing"


def _order_faults(turns: list[Turn], places: list[str]) -> Iterator[str]:
    begin = 1 if turns[:1] and turns[0].role == "system" else 0
    spoken = turns[begin:]
    for i, turn in enumerate(spoken):
        expected = "assistant" if i % 2 else "user"
        if turn.role != expected:
            yield (
                f"{places[begin + i]} is a turn of the {turn.role}, expected the {expected}: "
                "at most one system turn at the start, then user and assistant in turn"
            )
            return
    if len(spoken) % 2:
        yield f"{places[-1]}, the last turn, is the user's, and nothing answers it; remove it or add the answer"
    elif not spoken:
        yield "no turn of the user and the assistant"


def _text_faults(row: dict[str, Any], key: str, rule: str, *, may_be_empty: bool = True) -> Iterator[str]:
    if key not in row:
        yield f"no {key!r} (keys: {_keys(row)}); expected {rule}"
    elif not isinstance(row[key], str):
        yield f"{key!r} is {_found(row[key])}; expected {rule}"
    elif not _is_encodable(row[key]):
        yield f"{key!r} has half of a surrogate pair, which is no character; expected {rule}"
    elif not may_be_empty and not row[key].strip():
        yield f"{key!r} is empty; expected {rule}"


def _optional_faults(row: dict[str, Any], key: str) -> Iterator[str]:
    value = row.get(key)
    if not isinstance(value, str | None):
        yield f"{key!r} is {_found(value)}; expected a text, null or no {key}"
    elif value and not _is_encodable(value):
        yield f"{key!r} has half of a surrogate pair, which is no character; expected a text"


def _weight(row: dict[str, Any]) -> Any:
    weight = row.get("weight")
    return 1.0 if weight is None else weight


def _weight_faults(weight: Any) -> list[str]:
    if isinstance(weight, int | float) and not isinstance(weight, bool) and 0 <= weight <= _HEAVIEST:
        return []
    return [f"'weight' is {_short(weight)}; expected a number from 0 to {_HEAVIEST:,}"]


def _is_encodable(text: str) -> bool:
    # JSON can spell "\ud800" alone; no UTF-8 text, and so no tokenizer, can.
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
