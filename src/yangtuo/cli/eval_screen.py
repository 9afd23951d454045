"""`yangtuo eval`: the table, and the verdict with its rules."""

from typing import Any

from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from yangtuo import logs
from yangtuo.evaluation.results import Evaluation, lines
from yangtuo.evaluation.verdict import Outcome, Verdict
from yangtuo.i18n import Message, gettext_noop, shortened, tr

_WIDEST = 10_000  # columns
_TITLES = {
    Outcome.BETTER: (Message("better"), "bold green"),
    Outcome.NO_DIFFERENCE: (Message("no difference shown"), "bold yellow"),
    Outcome.BROKEN: (Message("broken"), "bold red"),
}
_CHANGED = {
    "lost": gettext_noop("right before, wrong now ({num}): {items}"),
    "gained": gettext_noop("wrong before, right now ({num}): {items}"),
}
_MOST_ITEMS = 6


def show(found: Evaluation) -> None:
    """Print what was found."""
    console, made = logs.console(), table(found)
    # In a narrow window, or one that is none, figures would be cut; a line that is too long is wrapped by the terminal.
    natural = Measurement.get(console, console.options.update(width=_WIDEST), made).maximum
    logs.console(max(console.width, natural)).print(made)
    for name, ids in (found.changed or {}).items():
        if ids:
            told = tr(_CHANGED[name]).format(num=len(ids), items=tr(shortened(ids, _MOST_ITEMS, ", ")))
            console.print(Text(f"  {told}", "dim"))
    if found.verdict:
        console.print()
        for part in verdict_lines(found.verdict):
            console.print(part)


def table(found: Evaluation) -> Table:
    """Measures by line, models by column; what the last model gained stands at the right with its interval."""
    made = Table(box=None, pad_edge=False)
    made.add_column("", no_wrap=True)
    for name in found.names:
        made.add_column(name, justify="right", no_wrap=True)
    several = len(found.names) > 1
    if several:
        made.add_column(tr("change [95 % interval]"), justify="right", no_wrap=True)
    for line in lines(found.measures, found.names):
        style = {True: "green", False: "red", None: ""}[line.is_good]
        change: list[Any] = [Text(line.change, style)] if several else []
        made.add_row(line.name, *line.values, *change)
    return made


def verdict_lines(verdict: Verdict) -> list[Text]:
    """The outcome, why, and each rule with a mark."""
    title, style = _TITLES[verdict.outcome]
    parts = [Text.assemble((tr("verdict: "), "bold"), (tr(title), style)), Text(f"  {tr(verdict.text)}")]
    marks = {True: (logs.sign("✓", "+"), "green"), False: (logs.sign("✗", "x"), "red"), None: ("?", "dim")}
    for rule in verdict.rules:
        mark, colour = marks[rule.passed]
        parts.append(Text.assemble("  ", (mark, colour), f" {tr(rule.text)}"))
    return parts
