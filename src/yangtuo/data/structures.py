"""Where a text cannot end: inside JSON, fenced code, a Markdown table, or a block such as <think>...</think>.

An answer that stops there with an end token would teach the model to stop there.
"""

import re
from collections.abc import Iterator

Span = tuple[int, int]  # a text that is cut at a place between the two, neither included, ends inside

_BLOCKS = ("think", "thinking", "thought", "reasoning", "tool_call", "tool_calls", "function_call")
_TAG = re.compile(rf"<(/?)({'|'.join(_BLOCKS)})>")
_FENCE = re.compile(r"^(?:[^`\n]*(`{3,})|[ \t>]*(~{3,}))([^`\n]*)$", re.MULTILINE)  # words may stand before it
_SEPARATOR = re.compile(r"\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?")  # of a table's head from its rows
_NEAR = 100  # characters, among them an indent
_OPENING = re.compile(r"[{\[]")
_JSON_PART = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]]', re.DOTALL)


def spans_of(text: str) -> list[Span]:
    """Everything in the text that has to be whole; what is never closed goes on beyond the text's end."""
    fences = list(_fences(text))
    return [*fences, *_blocks(text), *_tables(text), *_json(text, fences)]


def is_inside(spans: list[Span], place: int) -> bool:
    """Whether a text that is cut at this place ends inside one of them."""
    return any(begin < place < end for begin, end in spans)


def _fences(text: str) -> Iterator[Span]:
    begin, mark = -1, ""
    for found in _FENCE.finditer(text):
        own = found[1] or found[2]
        if not mark:
            begin, mark = found.end() - len(own) - len(found[3]), own
        elif own.startswith(mark) and not found[3].strip():
            yield begin, found.end()
            mark = ""
    if mark:
        yield begin, len(text) + 1


def _blocks(text: str) -> Iterator[Span]:
    begins: dict[str, int] = {}
    for closes, name in ((found, found[2]) for found in _TAG.finditer(text)):
        if not closes[1]:
            begins.setdefault(name, closes.start())
        else:  # without a begin, the prompt has opened it
            yield begins.pop(name, -1), closes.end()
    yield from ((begin, len(text) + 1) for begin in begins.values())


def _tables(text: str) -> Iterator[Span]:
    lines: list[Span] = []  # that may be of one table
    at = 0
    for line in [*text.split("\n"), ""]:
        if "|" in line:
            lines.append((at, at + len(line)))
        else:
            yield from _table(text, lines)
            lines = []
        at += len(line) + 1


def _table(text: str, lines: list[Span]) -> Iterator[Span]:
    said = [text[begin:end].strip() for begin, end in lines]
    heads = [number for number, line in enumerate(said) if number and _SEPARATOR.fullmatch(line)]
    if heads:
        yield lines[heads[0] - 1][0], lines[-1][1]
    elif len(lines) > 1 and all(line.startswith("|") for line in said):
        yield lines[0][0], lines[-1][1]


def _json(text: str, fences: list[Span]) -> Iterator[Span]:
    at = 0
    while found := _OPENING.search(text, at):
        begin = found.start()
        at = begin + 1
        is_json = text[at : at + _NEAR].lstrip()[:1] in ('"', "{", "[")
        is_first = not text[text.rfind("\n", 0, begin) + 1 : begin].strip()
        if not (is_json or is_first) or is_inside(fences, at):
            continue
        end = _end_of_json(text, begin)
        if end or is_json:
            yield begin, end or len(text) + 1
            at = end or len(text)


def _end_of_json(text: str, begin: int) -> int:
    """Where brackets are closed; 0 where they never are."""
    depth = 0
    for part in _JSON_PART.finditer(text, begin):
        if part[0] in "{[":
            depth += 1
        elif part[0] in "}]":
            depth -= 1
            if not depth:
                return part.end()
    return 0
