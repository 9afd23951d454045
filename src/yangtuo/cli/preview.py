"""`yangtuo preview`: rows as the model sees them. Imports no torch."""

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.text import Text

from yangtuo import logs, output
from yangtuo.config.settings import Settings
from yangtuo.data.examples import Examples, RowOutcome
from yangtuo.data.measures import sample
from yangtuo.data.token_view import TokenView, token_views
from yangtuo.errors import UsageError
from yangtuo.i18n import Listed, Message, tr
from yangtuo.training.dataset import check_columns, encode_files, folders, open_data, tell_without_effect

logger = logging.getLogger(__name__)

_OUTCOMES = {
    RowOutcome.ANSWER_CUT_OPEN: Message("answer cut in mid-sentence, no end token"),
    RowOutcome.RIGHT_CUT: Message("cut from the right, no end token"),
    RowOutcome.ANSWER_CUT: Message("answer shortened at a sentence end"),
    RowOutcome.PROMPT_CUT: Message("prompt shortened"),
    RowOutcome.TURNS_LOST: Message("oldest turns left out"),
    RowOutcome.EMPTY_ANSWER: Message("empty answer"),
    RowOutcome.SPECIAL_TEXT: Message("holds text like a control token"),
    RowOutcome.AS_SERVED: Message("one of the examples of its dialogue"),
}


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
    if options.num_rows < 1:
        raise UsageError(f"--num_rows {options.num_rows}: at least 1")
    if options.html:
        output.check_place(Path(options.html), "html")
    unused = ("mix", "deduplicate", "validation_split_percentage")
    tell_without_effect(settings, unused, "rows are shown as they are encoded, of all that are kept")
    opened = open_data(settings, *folders(settings))
    stored = encode_files(settings, opened.train_files, opened.tokenizer, opened.template)
    check_columns(settings, stored.sources)
    for source in stored.sources:
        if source.layout:
            logger.info("data: %s: %s", source.path, source.layout)
    examples = stored.examples
    if options.row is not None:
        found = np.flatnonzero(examples.rows == options.row)
        if not len(found):
            why = next((one.reason for one in stored.dropped if one.row == options.row), "there is no such row")
            raise UsageError(f"--row {options.row}: {why}")
        chosen = [(tr("row"), int(i)) for i in found if examples.source_numbers[i] == examples.source_numbers[found[0]]]
    else:
        chosen = list(choose(examples, options.num_rows, settings.trainer.seed))
    if options.html:
        from yangtuo.cli import preview_page

        rows = [(heading(examples, kind, i), list(token_views(examples, i, opened.tokenizer))) for kind, i in chosen]
        told = tr("{shown} of {num_rows:,} rows, template {template}")
        title = told.format(shown=len(rows), num_rows=len(examples), template=opened.template.name)
        preview_page.write(Path(options.html), title, rows)
        logger.info("preview: %s", options.html)
        return
    console = logs.console()
    for kind, i in chosen:
        console.print(Text(heading(examples, kind, i), "bold"))
        console.print(as_text(token_views(examples, i, opened.tokenizer), coloured=console.is_terminal))
        console.print()
    console.print(_legend(coloured=console.is_terminal))


def choose(examples: Examples, num_rows: int, seed: int) -> Iterator[tuple[str, int]]:
    """Kinds of rows with their indices: random, longest, shortest, and worst."""
    lengths = examples.lengths()
    by_length = np.argsort(lengths, kind="stable")
    for kind, rows in (
        (Message("random"), sample(len(examples), num_rows, seed)),
        (Message("longest"), by_length[::-1][:num_rows]),
        (Message("shortest"), by_length[:num_rows]),
        (Message("worst"), worst(examples)[:num_rows]),
    ):
        for i in rows:
            yield kind, int(i)


def worst(examples: Examples) -> npt.NDArray[np.int64]:
    """Rows in order of what went wrong with them, then of how little of them is trained."""
    rank = np.full(len(examples), len(_OUTCOMES))
    for place, outcome in reversed(list(enumerate(_OUTCOMES))):
        rank[(examples.outcomes & int(outcome)) > 0] = place
    return np.lexsort((examples.num_supervised() / examples.lengths(), rank))


def heading(examples: Examples, kind: str, i: int) -> str:
    """What a row is, in a line."""
    outcomes = [text for outcome, text in _OUTCOMES.items() if examples.outcomes[i] & int(outcome)]
    num, trained = int(examples.lengths()[i]), int(examples.num_supervised()[i])
    told = Message(
        "{kind}: {place}: {num} tokens, {trained} trained",
        kind=kind,
        place=examples.where(i),
        num=num,
        trained=trained,
    )
    return tr(Listed([told, *outcomes], "; "))


def as_text(views: Iterator[TokenView], *, coloured: bool) -> Text:
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
