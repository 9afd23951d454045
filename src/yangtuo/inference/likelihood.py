"""The log-probability of each token of given rows, prefixes that rows have in common computed once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from yangtuo.config.choices import DataOrder, LossReduction
from yangtuo.data.examples import Examples
from yangtuo.engine.layout import Layout
from yangtuo.engine.planning import StepShape
from yangtuo.engine.steps import Execution, Planner, Recipe
from yangtuo.i18n import Message
from yangtuo.inference.forward import RowReader, Rows, in_parts, places_of_rows

_CHUNK_BYTES = 64 << 20  # of float32 logits that exist at once
_EVERY_ROW = Recipe(StepShape(1, 1, 1), LossReduction.TOKEN, DataOrder.SEQUENTIAL, 0, False, 0.0, None, 1)


@dataclass(frozen=True)
class RowLikelihood:
    """Of the tokens of a row that have a loss, in order.

    Attributes:
        logps: float32 [S], natural logarithm of each one's probability after those before it.
        is_likeliest: bool [S], whether no other token had a higher one.
    """

    logps: npt.NDArray[np.float32]
    is_likeliest: npt.NDArray[np.bool_]


@dataclass
class Work:
    """What was computed so far: cells of the model, for so many tokens of all rows."""

    num_cells: int = 0
    num_tokens: int = 0


class LikelihoodReader:
    """Likelihoods of rows, in micro-batches.

    Attributes:
        work: counted.
    """

    def __init__(self, reader: RowReader, max_cells: int):
        """`max_cells` are most cells of a micro-batch; a row that is longer is one by itself."""
        self._reader, self._max_cells, self.work = reader, max_cells, Work()

    def read(
        self, examples: Examples, is_known: Callable[[int], bool] = lambda _: False
    ) -> Iterator[list[tuple[int, RowLikelihood]]]:
        """The rows with their likelihoods, a micro-batch at a time, in an order that depends on the rows alone.

        Args:
            examples: rows; each has a token with a loss.
            is_known: whether a row need not be computed; a micro-batch is left out where none of its rows has to.

        Raises:
            OutOfMemoryError: even one row does not fit.
        """
        for rows in self._micro_batches(examples):
            if not all(map(is_known, rows)):
                yield from in_parts(
                    rows, lambda part: self._of(examples, part), self._reader.device, _too_long(examples)
                )

    def _micro_batches(self, examples: Examples) -> list[list[int]]:
        way = self._reader.way.rows
        execution = Execution(way is Rows.TREE, 1 if way is Rows.SINGLE else self._max_cells)
        plan = Planner(examples).evaluation(_EVERY_ROW, execution)
        return [batch.rows.tolist() for batch in plan.micro_batches[0]]

    def _of(self, examples: Examples, rows: Sequence[int]) -> list[tuple[int, RowLikelihood]]:
        with self._reader.reading():
            layout = self._reader.lay_out(examples, rows)
            logps, is_likeliest = self._predictions(layout)
        self.work.num_cells += layout.num_cells
        self.work.num_tokens += layout.num_tokens
        places = places_of_rows(layout, examples)
        return [(row, RowLikelihood(logps[at], is_likeliest[at])) for row, at in zip(rows, places, strict=True)]

    def _predictions(self, layout: Layout) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Of each prediction of a layout [N]; predictions at one cell share its logits."""
        cells, of_cell = np.unique(layout.cells, return_inverse=True)
        hidden = self._reader.before_logits(layout)
        num_rows = max(1, _CHUNK_BYTES // (4 * self._reader.num_logits))
        logps, likeliest = np.empty(len(of_cell), np.float32), np.empty(len(of_cell), np.bool_)
        for begin in range(0, len(cells), num_rows):
            chunk = torch.from_numpy(cells[begin : begin + num_rows]).to(self._reader.device)
            logits = self._reader.logits_of(hidden, chunk)
            mine = np.flatnonzero((of_cell >= begin) & (of_cell < begin + num_rows))
            at = torch.from_numpy(of_cell[mine] - begin).to(self._reader.device)
            targets = torch.from_numpy(layout.targets[mine]).to(self._reader.device)
            chosen = logits[at, targets]
            logps[mine] = (chosen - logits.logsumexp(-1)[at]).cpu().numpy()
            likeliest[mine] = (chosen >= logits.max(-1).values[at]).cpu().numpy()
        return logps, likeliest


def _too_long(examples: Examples) -> Callable[[int], str]:
    def told(i: int) -> str:
        num_tokens = int(examples.lengths()[i])
        return Message(
            "{where}: a row of {num_tokens:,} tokens does not fit into memory; --use_cpu computes without the device",
            where=examples.where(i),
            num_tokens=num_tokens,
        )

    return told
