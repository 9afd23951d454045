"""Thoughts before an answer: how models mark them, and what of them a row or a prompt holds. Functions of texts."""

import re
from typing import NamedTuple

from yangtuo.data.records import Turn


class Marks(NamedTuple):
    """What stands before and behind a thought."""

    opens: str
    closes: str


# Sources: chat templates of Qwen3, DeepSeek-R1, GLM-4.5, MiniCPM4.1, Hunyuan, ERNIE-4.5 and others (the first);
# Seed-OSS; Magistral; Gemma 4.
MARKS = (
    Marks("<think>", "</think>"),
    Marks("<seed:think>", "</seed:think>"),
    Marks("[THINK]", "[/THINK]"),
    Marks("<|channel>thought", "<channel|>"),
)
SWITCHES = ("enable_thinking", "thinking")  # names by which templates are asked for thoughts
THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking", "thought")
_CLOSING = [closes for _, closes in MARKS]
_PAIRS = [(re.escape(opens), re.escape(closes)) for opens, closes in MARKS]
_OPEN = re.compile("(?:" + "|".join(opens for opens, _ in _PAIRS) + r")\s*\Z")
_EMPTY = re.compile(r"\s*(?:" + "|".join(rf"{opens}\s*{closes}" for opens, closes in _PAIRS) + r")\s*")
_EMPTY_REST = re.compile(r"\s*(?:" + "|".join(closes for _, closes in _PAIRS) + r")\s*")
_CLOSED = re.compile("(?:" + "|".join(rf"(?:{opens}\s*)?{closes}" for opens, closes in _PAIRS) + r")\s*\Z")


def thought_key_of(source: str) -> str:
    """The key under which a chat template looks for a thought in a message."""
    found = re.search(rf"(?:\.|\[['\"])({'|'.join(THOUGHT_KEYS)})\b", source)
    return found.group(1) if found else THOUGHT_KEYS[0]


def has_block(text: str) -> bool:
    """Whether a text may hold a thought; quick, for texts that mostly have none."""
    return any(map(text.__contains__, _CLOSING))


def opened_by(prompt: str) -> str:
    """The opening of a thought that a prompt ends with, with its blanks; "" where it ends otherwise."""
    found = _OPEN.search(prompt)
    return found.group() if found else ""


def empty_block(said: str, *, is_open: bool) -> str:
    """The block without a thought that a text begins with, or its rest where the prompt has opened it; else ""."""
    found = (_EMPTY_REST if is_open else _EMPTY).match(said)
    return found.group() if found else ""


class Parts(NamedTuple):
    """A text as `opens + thought + closes + rest`; blanks beside the marks belong to these."""

    opens: str
    thought: str
    closes: str
    rest: str


def thought_of(turn: Turn) -> str:
    """What was thought before an answer, without marks and blanks; "" for nothing."""
    return (thought_beside(turn) or parts_of(turn.text).thought).strip()


def thought_beside(turn: Turn) -> str:
    """The thought that stands beside an answer's text; blanks alone are none."""
    beside = str((turn.more or {}).get("reasoning_content") or "")
    return beside if beside.strip() else ""


def parts_of(text: str) -> Parts:
    """The thought that a text begins with, opened in it or before it, and the rest."""
    for opens, closes in MARKS:
        before, found, rest = text.partition(closes)
        if found and (before.lstrip().startswith(opens) or opens not in before):
            head = before[: len(before) - len(before.lstrip().removeprefix(opens))]
            head = head if opens in head else ""
            tail = rest.lstrip("\n")
            return Parts(head, before[len(head) :], closes + rest[: len(rest) - len(tail)], tail)
    return Parts("", "", "", text)


def with_thought(turn: Turn, opened: str = "<think>\n") -> str:
    """An answer with its thought as models write both; a text that holds the thought already is left as it is."""
    beside = thought_beside(turn).strip()
    if not beside:
        return turn.text
    marks = next(one for one in MARKS if one.opens in opened)
    blank, blanks = ("\n", "\n\n") if "\n" in opened else ("", "")
    return f"{marks.opens}{blank}{beside}{blank}{marks.closes}{blanks}{turn.text}"


def continued(text: str, opened: str, *, has_thought: bool) -> str:
    """What a model writes of an answer, with its thought, behind a prompt that has opened the block.

    Without a thought, the block is closed at once.
    """
    marks = next(one for one in MARKS if one.opens in opened)
    if not has_thought:
        return f"\n{marks.closes}\n\n{text}" if "\n" in opened else f"{marks.closes}{text}"
    return text[len(opened) :] if text.startswith(opened) else text.removeprefix(marks.opens).lstrip("\n")


def without_closed_block(prompt: str) -> str:
    """A prompt without the empty block, or the end of one, that it ends with."""
    return _CLOSED.sub("", prompt)
