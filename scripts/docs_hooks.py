"""What mkdocs does besides to a page: names of other pages become links, and a page is found once.

Pages that are in English only stand in the Chinese site as well; searching knows them from the English one.
"""

import re
from pathlib import Path
from typing import Any

_PAGE = re.compile(r"(?<!\[)`docs/([\w-]+\.md)`(?!\])")
_FENCED = re.compile(r"(^```.*?^```)", flags=re.M | re.S)
_NAME = re.compile(r"<code>(-{1,2}[\w-]+)</code>")
_BILINGUAL = ("glossary.md",)


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Turn `docs/x.md` in a page's prose into a link to that page, where there is one."""
    name = page.file.src_uri
    if config["theme"]["language"] == "zh" and not name.endswith(".zh.md") and name not in _BILINGUAL:
        page.meta.setdefault("search", {})["exclude"] = True
    docs = Path(config["docs_dir"])

    def linked(match: re.Match[str]) -> str:
        return f"[`docs/{match[1]}`]({match[1]})" if (docs / match[1]).is_file() else match[0]

    parts = _FENCED.split(markdown)
    return "".join(part if part.startswith("```") else _PAGE.sub(linked, part) for part in parts)


def on_page_content(html: str, **_: Any) -> str:
    """Mark names of options, which a narrow column would break behind their dashes; `site.css` keeps them whole."""
    return _NAME.sub(r'<code class="option">\1</code>', html)
