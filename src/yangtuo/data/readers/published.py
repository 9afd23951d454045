r"""Rows of published data sets that are laid out in their own way -> rows of messages, or of Alpaca.

- Firefly: `conversation` is a list of {"human": ..., "assistant": ...}; XTuner: of {"system", "input", "output"}.
- MOSS 003: `chat` has turn_1, turn_2, ... with a text in MOSS's marks for each speaker; `meta_instruction` is its
  system prompt. MOSS 002: `plain_text` is the whole dialogue, `prefix` the system prompt.
- BELLE's dialogues of 0.8M: Alpaca whose instruction is the dialogue so far, as "Human:...\nAssistant:...".

Each is a function that tells what rows like the first one are, and makes a known row of each of them.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from yangtuo.config.choices import DataFormat
from yangtuo.data.readers import names
from yangtuo.data.readers.json_rows import Doubled
from yangtuo.data.readers.shown import found, keys_of, short
from yangtuo.i18n import Message

Made = tuple[Any, list[str]]  # a row of a known format, and what is wrong with the row that it was made of

_DIALOGUES = ("conversation", "conversations", "dialogue", "dialog", "chat", "对话")
_SPEAKER = re.compile(r"(?:^|\n)(Human|Assistant):")
_MOSS_PARTS = {  # key of a turn -> its marks
    "Human": ("<|Human|>:", "<eoh>"),
    "Inner Thoughts": ("<|Inner Thoughts|>:", "<eot>"),
    "Commands": ("<|Commands|>:", "<eoc>"),
    "Tool Responses": ("<|Results|>:", "<eor>"),
    "MOSS": ("<|MOSS|>:", "<eom>"),
}
_MOSS_002 = re.compile(r"\[(Human|MOSS)\]:(.*?)(?:<eoh>|<eoa>|$)\s*", re.DOTALL)


def layout_of(row: Mapping[str, Any]) -> tuple[DataFormat, Callable[[Any], Made], str] | None:
    """The format that rows like this one are made into, what makes them, and what is said of it; None for others."""
    for key in _DIALOGUES:
        first = row[key][0] if isinstance(row.get(key), list) and row[key] else None
        if isinstance(first, dict) and not first.keys() & {"role", "from"} and (said := names.said(first)):
            told = Message(
                "{key} as a dialogue, {user} as the user and {assistant} as the assistant",
                key=key,
                user=said[0],
                assistant=said[1],
            )
            return DataFormat.MESSAGES, partial(_made, key=key, read=_pairs), told
    chat = row.get("chat")
    if isinstance(chat, dict) and isinstance(first := next(iter(chat.values()), None), dict) and "MOSS" in first:
        told = Message("chat as a dialogue, in MOSS's marks, meta_instruction as system")
        return DataFormat.MESSAGES, partial(_made, key="chat", read=_moss_003), told
    if isinstance(text := row.get("plain_text"), str) and "[Human]:" in text and "[MOSS]:" in text:
        told = Message("plain_text as a dialogue, in MOSS's marks, prefix as system")
        return DataFormat.MESSAGES, partial(_made, key="plain_text", read=_moss_002), told
    instruction = row.get("instruction")
    if isinstance(instruction, str) and "output" in row and _is_belle(instruction):
        return DataFormat.ALPACA, _belle, Message("instruction as a dialogue, in BELLE's Human: and Assistant:")
    return None


def _made(row: Any, key: str, read: Callable[[Any, list[str]], list[dict[str, Any]]]) -> Made:
    """The row with `messages` in place of its own dialogue."""
    if not isinstance(row, dict) or isinstance(row, Doubled):
        return row, []
    if key not in row:
        return row, [
            Message(
                "no {key!r} (keys: {keys}); expected a dialogue, as in the file's first row",
                key=key,
                keys=keys_of(row),
            )
        ]
    faults: list[str] = []
    messages = read(row[key], faults)
    made = {name: value for name, value in row.items() if name not in (key, "messages", "num_turns")}
    for own in ("meta_instruction", "prefix"):
        if own in made and key in ("chat", "plain_text"):
            made["system"] = made.pop(own)
    return {**made, "messages": messages}, faults


def _pairs(listed: Any, faults: list[str]) -> list[dict[str, Any]]:
    if not isinstance(listed, list) or not listed:
        faults.append(Message("the dialogue is {listed}; expected a list that is not empty", listed=found(listed)))
        return []
    messages: list[dict[str, Any]] = []
    for number, item in enumerate(listed):
        said = names.said(item) if isinstance(item, dict) and not isinstance(item, Doubled) else None
        if said is None:
            faults.append(
                Message(
                    "item {number} of the dialogue is {item}; expected a question and its answer",
                    number=number,
                    item=found(item),
                )
            )
            continue
        system = item.get("system")
        if isinstance(system, str) and system and not messages:
            messages.append({"role": "system", "content": system})
        elif system:
            faults.append(
                Message(
                    "item {number} of the dialogue: 'system' is {system}; expected it in the first alone",
                    number=number,
                    system=short(system),
                )
            )
        for key, role in zip(said, ("user", "assistant"), strict=True):
            if not isinstance(item[key], str) or not (item[key].strip() or role == "assistant"):
                rule = Message("a text") if role == "assistant" else Message("a text that is not empty")
                faults.append(
                    Message(
                        "item {number} of the dialogue: {key!r} is {item}; expected {rule}",
                        number=number,
                        key=key,
                        item=found(item[key]),
                        rule=rule,
                    )
                )
            messages.append({"role": role, "content": item[key]})
    return messages


def _moss_003(chat: Any, faults: list[str]) -> list[dict[str, Any]]:
    if not isinstance(chat, dict) or not chat:
        faults.append(Message("'chat' is {chat}; expected turn_1, turn_2, ...", chat=found(chat)))
        return []
    messages: list[dict[str, Any]] = []
    for name, turn in chat.items():
        if not isinstance(turn, dict) or not all(isinstance(turn.get(key), str) for key in ("Human", "MOSS")):
            faults.append(Message("{name} is {turn}; expected the texts Human and MOSS", name=name, turn=found(turn)))
            continue
        said = {key: _without(str(turn.get(key) or ""), *marks) for key, marks in _MOSS_PARTS.items()}
        for key in ("Inner Thoughts", "Commands", "Tool Responses"):
            if said[key] not in ("", "None"):
                faults.append(
                    Message(
                        "{name}: {key!r} is {said}: plugins of MOSS cannot be trained; remove it",
                        name=name,
                        key=key,
                        said=short(said[key]),
                    )
                )
        messages += [{"role": "user", "content": said["Human"]}, {"role": "assistant", "content": said["MOSS"]}]
    return messages


def _without(text: str, begin: str, end: str) -> str:
    return text.strip().removeprefix(begin).removesuffix(end).strip()


def _moss_002(text: Any, faults: list[str]) -> list[dict[str, Any]]:
    if not isinstance(text, str) or _MOSS_002.sub("", text).strip():
        faults.append(
            Message("'plain_text' is {text}; expected [Human]: ... <eoh> [MOSS]: ... <eoa>", text=found(text))
        )
        return []
    roles = {"Human": "user", "MOSS": "assistant"}
    return [{"role": roles[who], "content": said.strip()} for who, said in _MOSS_002.findall(text)]


def _is_belle(instruction: str) -> bool:
    return instruction.startswith("Human:") and instruction.rstrip().endswith("\nAssistant:")


def _belle(row: Any) -> Made:
    """The dialogue so far as `history`; other rows as they are."""
    if not isinstance(row, dict) or isinstance(row, Doubled):
        return row, []
    instruction, output = row.get("instruction"), row.get("output")
    if not isinstance(instruction, str) or not isinstance(output, str) or not _is_belle(instruction):
        return row, []
    _, *parts = _SPEAKER.split(instruction.rstrip())
    who, said = parts[::2], [text.strip() for text in parts[1::2]]
    if who != ["Human", "Assistant"] * (len(who) // 2) or row.get("input") or row.get("history"):
        told = ", ".join(who)
        return row, [
            Message(
                "'instruction' is a dialogue of {told}; expected Human and Assistant in turn, and no input", told=told
            )
        ]
    history = [list(pair) for pair in zip(said[:-2:2], said[1:-2:2], strict=True)]
    return {**row, "instruction": said[-2], "history": history, "output": output.strip()}, []
