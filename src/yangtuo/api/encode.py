"""Every kept row with its ids and labels, for other programs; loads no weights and no torch model."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from yangtuo.api.arguments import Option, settings_of
from yangtuo.api.process import as_library
from yangtuo.config.settings import Settings
from yangtuo.data.audit import audit, summary
from yangtuo.data.examples import Examples
from yangtuo.i18n import Message
from yangtuo.training.dataset import check_columns, encode_files, folders, open_data, tell_without_effect

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncodedRow:
    """A row as training sees it.

    Attributes:
        file: that it is in.
        row: its number there, 0-based.
        input_ids: [T]. The examples of a dialogue that is several stand one behind another.
        labels: [T], -100 where there is no loss.
        position_ids: [T], which begin anew with each example of a dialogue that is several, as in transformers'
            `DataCollatorWithFlattening`; None of a row that is one example.
        weights: [T], of the tokens; None where the data has none.
    """

    file: str
    row: int
    input_ids: list[int]
    labels: list[int]
    position_ids: list[int] | None = None
    weights: list[float] | None = None


def encode(**options: Option) -> Iterator[EncodedRow]:
    """Every kept row of the training files, once, in their order, as `yangtuo encode` writes them.

    Args:
        options: of the run, see `yangtuo.train`; a tokenizer does in place of a model.

    Returns:
        The rows, made one by one as they are taken; errors come at the call.

    Raises:
        UserError: an option or the data cannot be used.
    """
    settings = settings_of("yangtuo.encode", options)
    with as_library(computes=False):
        return rows_of(examples_of(settings))


def examples_of(settings: Settings) -> Examples:
    """Encode, and say what was kept.

    Raises:
        DataError: the data cannot be used.
    """
    unused = ("mix", "deduplicate", "validation_split_percentage")
    tell_without_effect(settings, unused, Message("every kept row is written, once"))
    opened = open_data(settings, *folders(settings))
    stored = encode_files(settings, opened.train_files, opened.tokenizer, opened.template)
    check_columns(settings, stored.sources)
    for line in summary("data", audit(stored.examples, stored, opened.end_id)):
        logger.info(line)
    return stored.examples


def rows_of(examples: Examples) -> Iterator[EncodedRow]:
    """The rows of examples, each with all of its own."""
    for first, behind in pairwise([*examples.firsts().tolist(), len(examples)]):
        own = range(first, behind)
        places = [place for i in own for place in range(int(examples.lengths()[i]))]
        weights = [weight for i in own for weight in examples.row_weights(i).tolist()]
        yield EncodedRow(
            file=examples.source(first),
            row=int(examples.rows[first]),
            input_ids=[token for i in own for token in examples.row(i)[0].tolist()],
            labels=[label for i in own for label in examples.labels(i).tolist()],
            position_ids=places if len(own) > 1 else None,
            weights=weights if examples.weights is not None else None,
        )
