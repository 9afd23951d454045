"""Writes the tables of other tools' option names into docs/from-other-tools.md and its Chinese twin.

python scripts/other_tools_table.py
"""

from collections.abc import Iterator
from pathlib import Path

from yangtuo.config.other_tools import LLAMA_FACTORY, MS_SWIFT, OTHER_NAMES, TRL

DOCS = Path(__file__).resolve().parents[1] / "docs"
BEGIN, END = "<!-- other names: begin -->", "<!-- other names: end -->"
_TOOLS = {LLAMA_FACTORY: "LLaMA-Factory", MS_SWIFT: "ms-swift", TRL: "TRL"}
# Page -> heads of the columns, and the name of tools that nobody made in particular.
PAGES = {
    "from-other-tools.md": ("tool", "its name", "here", "others"),
    "from-other-tools.zh.md": ("工具", "它的名称", "这里", "其他"),
}


def rows(others: str) -> Iterator[str]:
    """A row for each name, by tool; our options stand in backticks, words between them do not."""
    order = [*_TOOLS, *sorted({tool for tool, _ in OTHER_NAMES.values()} - set(_TOOLS))]
    for name, (tool, ours) in sorted(OTHER_NAMES.items(), key=lambda item: (order.index(item[1][0]), item[0])):
        here = " / ".join(f"`{option}`" for option in ours.split(" or "))
        yield f"| {_TOOLS.get(tool, others)} | `{name}` | {here} |"


def page(name: str, text: str) -> str:
    """A page's text with the table as it is now."""
    tool, theirs, here, others = PAGES[name]
    before, rest = text.split(BEGIN)
    table = [f"| {tool} | {theirs} | {here} |", "|---|---|---|", *rows(others)]
    return "\n".join([f"{before}{BEGIN}", "", *table, "", f"{END}{rest.split(END)[1]}"])


if __name__ == "__main__":
    for name in PAGES:
        path = DOCS / name
        path.write_text(page(name, path.read_text(encoding="utf-8")), encoding="utf-8")
        print(f"written: {path}")
