"""Sentences of the sources as patterns: what a page quotes of a message has to fit one of them."""

import ast
import re
from collections.abc import Iterator
from functools import cache

from tests.command import REPOSITORY

GAP = "…"  # of a quotation: what differs from one message to the next
_PLACEHOLDER = re.compile(r"%\(\w+\)[sdgf]|%[.\d,]*[sdgf]|\{\w*\}")
_SHORTEST = 8  # letters of a constant; shorter ones fit anything


def _constants(node: ast.AST) -> str | None:
    """A string expression with a gap for each value in it; None of anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _constants(node.left), _constants(node.right)
        return None if left is None and right is None else f"{left or GAP}{right or GAP}"
    return None


@cache
def sentences() -> tuple[str, ...]:
    """All strings of the sources, values as gaps."""
    found = {text for path in sorted((REPOSITORY / "src").rglob("*.py")) for text in _of_file(path.read_text("utf-8"))}
    return tuple(sorted(found))


def _of_file(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        text = _constants(node)
        if text and len(text) >= _SHORTEST:
            yield _PLACEHOLDER.sub(GAP, text)


def is_said(quoted: str) -> bool:
    """Whether the sources have a sentence with the quotation's constant parts, in that order.

    A gap of the quotation stands for any text; a gap of the sentence for any text too, so that `--… …: no such folder`
    fits `--{option} {value}: no such folder`.
    """
    parts = [re.escape(part.strip()) for part in quoted.split(GAP) if part.strip()]
    pattern = re.compile(".*".join(parts), flags=re.S)
    return any(pattern.search(sentence) for sentence in sentences())
