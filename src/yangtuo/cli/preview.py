"""`yangtuo preview`: rows as the model sees them. Imports no torch."""

import argparse
import logging
from collections.abc import Iterable
from pathlib import Path

from rich.text import Text

from yangtuo import logs, output
from yangtuo.api.preview import rows_of
from yangtuo.config.settings import Settings
from yangtuo.data.token_view import TokenView
from yangtuo.i18n import tr

logger = logging.getLogger(__name__)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The verb's own options beside those of a training run."""
    parser.add_argument("--num_rows", type=int, default=2, help="Rows of each kind. Default: %(default)s.")
    parser.add_argument("--row", type=int, help="Show this row alone (0-based, of the first file that kept it).")
    parser.add_argument("--html", help="Write a page instead.")


def run(settings: Settings, options: argparse.Namespace) -> None:
    """Show random, longest, shortest and worst rows.

    Raises:
        UsageError: a row that is not there, or a page that cannot be made.
        WriteError: the page cannot be written.
    """
    if options.html:
        output.check_place(Path(options.html), "html")
    found = rows_of(settings, options.num_rows, options.row)
    if options.html:
        from yangtuo.cli import preview_page

        told = tr("{shown} of {num_rows:,} rows, template {template}")
        title = told.format(shown=len(found.rows), num_rows=found.num_examples, template=found.template)
        preview_page.write(Path(options.html), title, [(row.heading, list(row.tokens)) for row in found.rows])
        logger.info("preview: %s", options.html)
        return
    console = logs.console()
    for row in found.rows:
        console.print(Text(row.heading, "bold"))
        console.print(as_text(row.tokens, coloured=console.is_terminal))
        console.print()
    console.print(_legend(coloured=console.is_terminal))


def as_text(views: Iterable[TokenView], *, coloured: bool) -> Text:
    """A row for the terminal; without colour, what is trained stands between ⟦ and ⟧."""
    text, (opens, closes), line_end = Text(), _brackets(), logs.sign("↵", "\\n")
    was_trained = False
    for view in views:
        if not coloured and view.is_trained != was_trained:
            text.append(opens if view.is_trained else closes)
        was_trained = view.is_trained
        shown = view.text if view.is_control else view.text.replace("\n", f"{line_end}\n")
        text.append(shown, _style(view))
    if not coloured and was_trained:
        text.append(closes)
    return text


def _brackets() -> tuple[str, str]:
    return logs.sign("⟦", "[["), logs.sign("⟧", "]]")


def _style(view: TokenView) -> str:
    if view.is_control:
        return "black on green" if view.is_trained else "dim reverse"
    if view.is_spelled_in_bytes:
        return "underline yellow" if view.is_trained else "dim underline yellow"
    return "green" if view.is_trained else "dim"


def _legend(*, coloured: bool) -> Text:
    if not coloured:
        return Text(tr("trained").join(_brackets()))
    return Text.assemble(
        (tr("prompt"), "dim"), "  ", (tr("trained"), "green"), "  ",
        ("</s>", "black on green"), tr(" end token, trained"), "  ",
        ("字", "underline yellow"), tr(" spelled in bytes: the vocabulary has no token for it"),
    )  # fmt: skip
