"""What mkdocs does to a page besides: names of other pages, as they stand in backticks, become links."""

import re
from pathlib import Path
from typing import Any

_PAGE = re.compile(r"(?<!\[)`docs/([\w-]+\.md)`(?!\])")
_FENCED = re.compile(r"(^```.*?^```)", flags=re.M | re.S)


def on_page_markdown(markdown: str, *, config: Any, **_: Any) -> str:
    """Turn `docs/x.md` in a page's prose into a link to that page, where there is one."""
    docs = Path(config["docs_dir"])

    def linked(match: re.Match[str]) -> str:
        name = match[1]
        return f"[`docs/{name}`]({name})" if (docs / name).is_file() else match[0]

    parts = _FENCED.split(markdown)
    return "".join(part if part.startswith("```") else _PAGE.sub(linked, part) for part in parts)
