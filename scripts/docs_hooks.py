"""What mkdocs does besides to a page: names of other pages become links, and a page is found once.

CONTRIBUTING.md lies where hosts of repositories look for it, and is shown as a page of the site. Pages that are in
English only stand in the Chinese site as well; searching knows them from the English one.
"""

import re
from pathlib import Path
from typing import Any

_PAGE = re.compile(r"(?<!\[)`docs/([\w-]+\.md)`(?!\])")
_FENCED = re.compile(r"(^```.*?^```)", flags=re.M | re.S)
_ELSEWHERE = re.compile(r"<!-- the site has here: (\w+\.md) -->")
_NAME = re.compile(r"<code>(-{1,2}[\w-]+)</code>")
_BILINGUAL = ("glossary.md",)


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Turn `docs/x.md` in a page's prose into a link to that page, where there is one."""
    name = page.file.src_uri
    if config["theme"]["language"] == "zh" and not name.endswith(".zh.md") and name not in _BILINGUAL:
        page.meta.setdefault("search", {})["exclude"] = True
    docs = Path(config["docs_dir"])
    if found := _ELSEWHERE.search(markdown):
        markdown = _of_the_repository(docs.parent / found[1])

    def linked(match: re.Match[str]) -> str:
        return f"[`docs/{match[1]}`]({match[1]})" if (docs / match[1]).is_file() else match[0]

    parts = _FENCED.split(markdown)
    return "".join(part if part.startswith("```") else _PAGE.sub(linked, part) for part in parts)


def _of_the_repository(path: Path) -> str:
    """A file beside the folder of the pages, with its links as a page has them and without those to its twin."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    text = "".join(line for line in lines if not re.search(r"\]\([A-Z]+(_zh)?\.md\)", line))
    return re.sub(r"\]\(docs/([\w-]+)(?:\.zh)?\.md", r"](\1.md", text)


def on_page_content(html: str, **_: Any) -> str:
    """Mark names of options, which a narrow column would break behind their dashes; `site.css` keeps them whole."""
    return _NAME.sub(r'<code class="option">\1</code>', html)
