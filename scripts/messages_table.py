"""Puts the Chinese of each message, as the catalogue has it, before its English in docs/troubleshooting.zh.md.

python scripts/messages_table.py
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from babel.messages.pofile import read_po

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "troubleshooting.zh.md"
CATALOGUE = ROOT / "src" / "yangtuo" / "locale" / "zh" / "LC_MESSAGES" / "yangtuo.po"
GAP = "…"  # what differs from one message to the next
_PLACE = re.compile(r"%\(\w+\)[sdgf]|%[-+.\d,]*[sdgf]|\{[^{}]*\}")
_CELL = re.compile(r"^\| (?:`[^`\n]+`<br>)?`([^`\n]+)` \|", flags=re.M)


@cache
def templates() -> dict[str, str]:
    """Chinese of each message, both with their places in them."""
    with CATALOGUE.open("rb") as file:
        catalogue = read_po(file, locale="zh_CN")
    return {message.id: message.string for message in catalogue if message.id and message.string}


def with_gaps(template: str) -> str:
    """A message as it is quoted."""
    return _PLACE.sub(GAP, template)


def _composed(quoted: str) -> Iterator[tuple[str, str]]:
    """English and Chinese of messages which are the quotation once another message stands in one of their places."""
    inner = {with_gaps(english): with_gaps(chinese) for english, chinese in templates().items()}
    for english, chinese in templates().items():
        for place in _PLACE.finditer(english):
            before, after = with_gaps(english[: place.start()]), with_gaps(english[place.end() :])
            if len(before) < 2 or not (quoted.startswith(before) and quoted.endswith(after)):
                continue
            said = inner.get(quoted[len(before) : len(quoted) - len(after)])
            if said and chinese.count(place[0]) == 1:
                yield quoted, with_gaps(chinese.replace(place[0], said))


def chinese_of(quoted: str) -> str:
    """What the program says in Chinese in place of the quoted English.

    Of several messages that have the quotation's constant parts in this order, the shortest: it adds least to them.

    Raises:
        LookupError: the catalogue has no such message.
    """
    parts = [re.escape(part.strip()) for part in quoted.split(GAP) if part.strip()]
    pattern = re.compile(".*".join(parts), flags=re.S)
    whole = ((with_gaps(english), with_gaps(chinese)) for english, chinese in templates().items())
    found = [pair for pair in whole if pattern.search(pair[0])] + list(_composed(quoted))
    if not found:
        raise LookupError(f"{CATALOGUE.name} has no message {quoted!r}")
    return min(found, key=lambda pair: len(pair[0]))[1]


def page(text: str) -> str:
    """The page's text with the first cells as they are now."""
    return _CELL.sub(lambda cell: f"| `{chinese_of(cell[1])}`<br>`{cell[1]}` |", text)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"written: {PAGE}")
