"""Rows as the model sees them: which are worth a look, and their tokens. Imports no torch."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from yangtuo.api.arguments import Option, settings_of
from yangtuo.api.process import as_library
from yangtuo.config.settings import Settings
from yangtuo.data.examples import Examples, RowOutcome
from yangtuo.data.measures import sample
from yangtuo.data.token_view import TokenView, token_views
from yangtuo.data.tokenizer import Tokenizer
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


@dataclass(frozen=True)
class PreviewRow:
    """A row as the model sees it.

    Attributes:
        kind: why it was chosen: Message("random"), "longest", "shortest", "worst", or "row" where it was asked for.
        where: its file and its place in it.
        num_tokens: of prompt and answers together.
        num_trained: of these, those with a loss.
        outcomes: what was done to it, a phrase each.
        tokens: in order, those that make one character together as one.
    """

    kind: str
    where: str
    num_tokens: int
    num_trained: int
    outcomes: tuple[str, ...]
    tokens: tuple[TokenView, ...]

    @property
    def text(self) -> str:
        """All of it, control tokens by their names."""
        return "".join(token.text for token in self.tokens)

    @property
    def trained_text(self) -> str:
        """What carries a loss, the end token by its name."""
        return "".join(token.text for token in self.tokens if token.is_trained)

    @property
    def heading(self) -> str:
        """What it is, in a line, in the reader's language."""
        told = Message(
            "{kind}: {place}: {num} tokens, {trained} trained",
            kind=self.kind,
            place=self.where,
            num=self.num_tokens,
            trained=self.num_trained,
        )
        return tr(Listed([told, *self.outcomes], "; "))


@dataclass(frozen=True)
class Preview:
    """Some rows, of how many, in which template."""

    rows: list[PreviewRow]
    num_examples: int
    template: str


def preview(*, num_rows: int = 2, row: int | None = None, **options: Option) -> list[PreviewRow]:
    """Random, longest, shortest and worst rows as the model sees them, as `yangtuo preview` shows them.

    Args:
        num_rows: of each kind.
        row: this row alone, 0-based, of the first file that kept it.
        options: of the run, see `yangtuo.train`; a tokenizer does in place of a model.

    Raises:
        UserError: an option or the data cannot be used, or there is no such row.
    """
    settings = settings_of("yangtuo.preview", options)
    with as_library(computes=False):
        return rows_of(settings, num_rows, row).rows


def rows_of(settings: Settings, num_rows: int, row: int | None) -> Preview:
    """Encode, and choose.

    Raises:
        UsageError: there is no such row.
        DataError: the data cannot be used.
    """
    if num_rows < 1:
        raise UsageError("--num_rows {num_rows}: at least 1", num_rows=num_rows)
    unused = ("mix", "deduplicate", "validation_split_percentage")
    tell_without_effect(settings, unused, Message("rows are shown as they are encoded, of all that are kept"))
    opened = open_data(settings, *folders(settings))
    stored = encode_files(settings, opened.train_files, opened.tokenizer, opened.template)
    check_columns(settings, stored.sources)
    for source in stored.sources:
        if source.layout:
            logger.info("data: %s: %s", source.path, source.layout)
    examples = stored.examples
    if row is not None:
        found = np.flatnonzero(examples.rows == row)
        if not len(found):
            why = next((one.reason for one in stored.dropped if one.row == row), Message("there is no such row"))
            raise UsageError("--row {row}: {why}", row=row, why=why)
        same_file = examples.source_numbers[found] == examples.source_numbers[found[0]]
        chosen = [(Message("row"), int(i)) for i in found[same_file]]
    else:
        chosen = list(choose(examples, num_rows, settings.trainer.seed))
    rows = [_row(examples, kind, i, opened.tokenizer) for kind, i in chosen]
    return Preview(rows, len(examples), opened.template.name)


def choose(examples: Examples, num_rows: int, seed: int) -> Iterator[tuple[Message, int]]:
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


def _row(examples: Examples, kind: str, i: int, tokenizer: Tokenizer) -> PreviewRow:
    outcomes = (text for outcome, text in _OUTCOMES.items() if examples.outcomes[i] & int(outcome))
    num, trained = int(examples.lengths()[i]), int(examples.num_supervised()[i])
    tokens = tuple(token_views(examples, i, tokenizer))
    return PreviewRow(kind, examples.where(i), num, trained, tuple(outcomes), tokens)
