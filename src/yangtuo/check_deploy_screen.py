"""The report of `yangtuo check-deploy` for a terminal; plain text where it goes into a pipe."""

from typing import Any

from rich.table import Table
from rich.text import Text

from yangtuo import streams

_COLOURS = {"same": "green", "same number": "green", "one piece": "yellow", "differs": "bold red", "not told": "dim"}
_QUESTION_CELLS = 24  # a Chinese character takes two


def show(report: dict[str, Any]) -> None:
    """Print it on standard output."""
    console = streams.console()
    told = report["reference"] or "none, prompts only"
    console.print(Text(f"{report['model']} at {report['url']} ({report['kind']})", "bold"))
    console.print(Text(f"template: {report['template']}; reference: {told}", "dim"))
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("turns", "last question", "prompt", "answer"):
        table.add_column(name, no_wrap=True)
    table.add_column("", overflow="fold")
    for row in report["prompts"]:
        details = "; ".join(part for part in (row["prompt_detail"], row["answer_detail"]) if part)
        table.add_row(
            "".join(message["role"][0] for message in row["messages"]),
            _short(row["messages"][-1]["content"]),
            Text(row["prompt"], _COLOURS[row["prompt"]]),
            Text(row["answer"], _COLOURS[row["answer"]]),
            Text(details, "dim"),
        )
    console.print(table)
    for note in report["notes"]:
        console.print(Text.assemble(("! ", "bold yellow"), note))
    word, colour = ("equal", "bold green") if report["equal"] else ("differs", "bold red")
    console.print(Text.assemble("verdict: ", (word, colour)))


def _short(text: str) -> Text:
    shown = Text(" ".join(text.split()))
    shown.truncate(_QUESTION_CELLS, overflow="ellipsis")
    return shown
