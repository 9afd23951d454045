"""Every text of the page, in English and Chinese: one table, `texts.json`.

Both languages stand in the page, each in a span of its class, and the style sheet shows one of them. What the run
itself has said (notes, events, problems, verdict) its files have in both languages.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

_SPANS = Markup('<span class="en" lang="en">{}</span><span class="zh" lang="zh-CN">{}</span>')


@cache
def table() -> dict[str, tuple[str, str]]:
    """Each text's English and Chinese, by its name."""
    found = json.loads(Path(__file__).with_name("texts.json").read_text(encoding="utf-8"))
    return {name: (english, chinese) for name, (english, chinese) in found.items()}


def has(name: str) -> bool:
    """Whether there is such a text."""
    return name in table()


def both(name: str, **values: Any) -> Markup:
    """A text in both languages; values in it are escaped, and words in backticks are code.

    Raises:
        KeyError: there is no such text, or a value of it is missing.
    """
    english, chinese = table()[name]
    return _SPANS.format(_filled(english, values), _filled(chinese, values))


def either(prefix: str, name: str) -> Markup:
    """The text `prefix.name` where there is one, else the name itself as code: later versions have more names."""
    return both(f"{prefix}.{name}") if has(f"{prefix}.{name}") else Markup("<code>{}</code>").format(name)


def spoken(english: str, chinese: str) -> Markup:
    """A sentence that a file has in both languages; the English one alone where it has no Chinese."""
    return _SPANS.format(english, chinese or english)


def plain(name: str) -> dict[str, str]:
    """A text without values in both languages, for scripts."""
    english, chinese = table()[name]
    return {"en": english, "zh": chinese}


def _filled(template: str, values: dict[str, Any]) -> Markup:
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(template)))).format(**values)
