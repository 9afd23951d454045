"""Encoded rows as columns: put together, hashed, looked at and chosen from.

Most rows are one example; "row" means an example where nothing else is said.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntFlag
from typing import Any

import numpy as np
import numpy.typing as npt

from yangtuo.data.readers.reader import Dropped
from yangtuo.i18n import Message

Hashes = npt.NDArray[np.uint64]
IGNORED_LABEL = -100  # the label that transformers and torch leave out of the loss


class RowOutcome(IntFlag):
    """What happened to a kept row on its way; several may have.

    `ANSWER_CUT`: shortened at a sentence end, with its end token; `ANSWER_CUT_OPEN`: without one near, and without it.
    `NO_SYSTEM`: its system prompt is empty, so that it asks for none. `EMPTY_THOUGHT`: the template puts a block
    without a thought before an answer, which carries no loss. `AS_SERVED`: the template renders the history otherwise
    than the last answer, so that the row is several examples, or the last of them (`History`). `ANSWERS_LOST`: others
    of its examples were too long and are dropped. `UNUSED_KWARGS`: the chat template uses not all of its
    `chat_template_kwargs`.
    """

    WHOLE = 0
    TURNS_LOST = 1
    PROMPT_CUT = 2
    ANSWER_CUT = 4
    ANSWER_CUT_OPEN = 8
    RIGHT_CUT = 16
    EMPTY_ANSWER = 32
    SPECIAL_TEXT = 64
    NO_SYSTEM = 128
    EMPTY_THOUGHT = 256
    AS_SERVED = 512
    ANSWERS_LOST = 1024
    UNUSED_KWARGS = 2048


@dataclass(frozen=True)
class Examples:
    """Encoded rows as columns; row i's tokens are `input_ids[begins[i] : ends[i]]`.

    Columns of tokens may be memory maps; choosing rows copies none of them.

    Attributes:
        input_ids: int32 [num_tokens].
        supervised: bool [num_tokens], True where the token carries a loss.
        weights: float32 [num_tokens], how much a token's loss counts, 0 without one; None where all count 1.
        begins: int64 [num_rows].
        ends: int64 [num_rows].
        trained: float64 [num_rows, 2], the number of tokens with a loss and the sum of their weights.
        paths: the files that rows come from.
        source_numbers: int32 [num_rows], index into `paths`.
        rows: int64 [num_rows], 0-based row number in its file.
        outcomes: uint16 [num_rows], `RowOutcome` of each row.
        hashes: uint64 [num_rows, 2], of each row and of its prompt, see `hashes_of`.
    """

    input_ids: npt.NDArray[np.int32]
    supervised: npt.NDArray[np.bool_]
    weights: npt.NDArray[np.float32] | None
    begins: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    trained: npt.NDArray[np.float64]
    paths: tuple[str, ...]
    source_numbers: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int64]
    outcomes: npt.NDArray[np.uint16]
    hashes: Hashes

    @classmethod
    def of_rows(
        cls, ids: Sequence[npt.ArrayLike], supervised: Sequence[npt.ArrayLike], path: str = "rows.json"
    ) -> "Examples":
        """Rows of one file, given one by one; every token with a loss counts 1."""
        lengths = np.array([np.size(row) for row in ids], dtype=np.int64)
        counts = np.array([np.count_nonzero(row) for row in supervised], dtype=np.float64)
        ends = np.cumsum(lengths)
        tokens, trained = np.concatenate(ids).astype(np.int32), np.concatenate(supervised).astype(np.bool_)
        return cls(
            input_ids=tokens,
            supervised=trained,
            weights=None,
            begins=ends - lengths,
            ends=ends,
            trained=np.stack([counts, counts], axis=1),
            paths=(path,),
            source_numbers=np.zeros(len(ids), dtype=np.int32),
            rows=np.arange(len(ids)),
            outcomes=np.zeros(len(ids), dtype=np.uint16),
            hashes=hashes_of(tokens, trained, lengths),
        )

    def __len__(self) -> int:
        return len(self.rows)

    def firsts(self) -> npt.NDArray[np.int64]:
        """The first example of each row; a row is one example, or several that stand together (see `as_served`)."""
        is_other = (np.diff(self.rows) != 0) | (np.diff(self.source_numbers) != 0)
        return np.concatenate([[0], np.flatnonzero(is_other) + 1]) if len(self) else np.zeros(0, dtype=np.int64)

    def row_numbers(self) -> npt.NDArray[np.int64]:
        """For each example the number of its row among those that are here."""
        firsts = self.firsts()
        return np.repeat(np.arange(len(firsts)), np.diff([*firsts, len(self)]))

    def num_rows(self, among: npt.NDArray[np.bool_] | None = None) -> int:
        """Rows that are here, or those of which an example is `among` [num_rows]."""
        return len(self.firsts()) if among is None else len(np.unique(self.row_numbers()[among]))

    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each row."""
        return self.ends - self.begins

    def num_supervised(self) -> npt.NDArray[np.int64]:
        """Tokens with a loss of each row."""
        return self.trained[:, 0].astype(np.int64)

    def total_weights(self) -> npt.NDArray[np.float64]:
        """Sum of the weights of each row's tokens with a loss."""
        return self.trained[:, 1]

    def row(self, i: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Ids and supervised mask of one row."""
        span = slice(self.begins[i], self.ends[i])
        return self.input_ids[span], self.supervised[span]

    def row_weights(self, i: int) -> npt.NDArray[np.float32]:
        """Weight of each token of one row; 0 where there is no loss."""
        span = slice(self.begins[i], self.ends[i])
        column = self.supervised if self.weights is None else self.weights
        return column[span].astype(np.float32)

    def labels(self, i: int) -> npt.NDArray[np.int32]:
        """Ids with `IGNORED_LABEL` where there is no loss."""
        ids, supervised = self.row(i)
        return np.where(supervised, ids, np.int32(IGNORED_LABEL))

    def source(self, i: int) -> str:
        """The file of a row."""
        return self.paths[int(self.source_numbers[i])]

    def where(self, i: int) -> str:
        """File and row of an example, for messages."""
        return Message("{path} row {row}", path=self.source(i), row=int(self.rows[i]))

    def num_with(self, outcome: RowOutcome) -> int:
        """Rows to which this happened."""
        return self.num_rows((self.outcomes & int(outcome)) > 0)

    def ends_trained(self, end_ids: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Whether the last token with a loss of each row is an end token."""
        last = self.ends - 1
        for i in np.flatnonzero(~self.supervised[last]):  # a dialogue whose last answer is not trained
            last[i] = self.begins[i] + np.flatnonzero(self.row(int(i))[1])[-1]
        return np.isin(self.input_ids[last], list(end_ids))

    def common_prefix(self) -> int:
        """Tokens that all rows begin with: the template's, in Alpaca data."""
        first, _ = self.row(0)
        shortest = int(self.lengths().min())
        for j in range(shortest):
            if (self.input_ids[self.begins + j] != first[j]).any():
                return j
        return shortest

    def take(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> "Examples":
        """The chosen rows, in the order given."""
        chosen = np.asarray(indices, dtype=np.int64)
        by_row = ("begins", "ends", "trained", "source_numbers", "rows", "outcomes", "hashes")
        return replace(self, **{name: getattr(self, name)[chosen] for name in by_row})


@dataclass
class Columns:
    """Encoded rows of some records, as they are put together; numbers of sources are those of `paths`.

    `dropped` lists the records without an example, `special` how often texts held what looks like a control token.
    """

    input_ids: list[npt.NDArray[np.int32]] = field(default_factory=list)
    runs: "array[int]" = field(default_factory=lambda: array("q"))  # lengths, without and with a loss in turn
    run_weights: "array[float]" = field(default_factory=lambda: array("f"))
    num_runs: "array[int]" = field(default_factory=lambda: array("q"))  # of each row
    sources: list[str] = field(default_factory=list)
    rows: "array[int]" = field(default_factory=lambda: array("q"))
    outcomes: "array[int]" = field(default_factory=lambda: array("H"))
    dropped: list[Dropped] = field(default_factory=list)
    special: dict[str, int] = field(default_factory=dict)

    def arrays(self, paths: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """`input_ids`, `supervised`, `weights` by token; `lengths`, `trained`, `source_numbers`, `rows`, ..."""
        ids = np.concatenate(self.input_ids) if self.input_ids else np.zeros(0, np.int32)
        runs, run_weights = np.frombuffer(self.runs, np.int64), np.frombuffer(self.run_weights, np.float32)
        firsts = np.concatenate([[0], np.cumsum(np.frombuffer(self.num_runs, np.int64))]).astype(np.int64)[:-1]

        def by_row(of_runs: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return np.add.reduceat(of_runs, firsts) if len(firsts) else of_runs[:0]

        trained = [by_row(runs * (run_weights > 0)), by_row(runs * run_weights.astype(np.float64))]
        number_of = {path: number for number, path in enumerate(paths)}
        supervised, lengths = np.repeat(run_weights > 0, runs), by_row(runs)
        return {
            "input_ids": ids,
            "supervised": supervised,
            "weights": np.repeat(run_weights, runs),
            "lengths": lengths,
            "trained": np.stack(trained, axis=1).astype(np.float64),
            "source_numbers": np.array([number_of[source] for source in self.sources], dtype=np.int32),
            "rows": np.frombuffer(self.rows, np.int64),
            "outcomes": np.frombuffer(self.outcomes, np.uint16),
            "hashes": hashes_of(ids, supervised, lengths),
        }


def examples_of(arrays: Mapping[str, npt.NDArray[Any]], paths: tuple[str, ...]) -> Examples:
    """Columns put together; `weights` left out where they say no more than `supervised`."""
    rest = dict(arrays)
    lengths, weights = rest.pop("lengths"), rest.pop("weights", None)
    is_plain = weights is None or bool((weights == rest["supervised"]).all())
    ends = np.cumsum(lengths, dtype=np.int64)
    return Examples(**rest, weights=None if is_plain else weights, begins=ends - lengths, ends=ends, paths=paths)


def hashes_of(input_ids: npt.NDArray[Any], supervised: npt.NDArray[Any], lengths: npt.NDArray[Any]) -> Hashes:
    """Two hashes of each row: of its tokens with which of them carry a loss, and of its prompt.

    The prompt is what the model reads before the row's first trained token.

    Args:
        input_ids: ids of all rows, one after another [num_tokens].
        supervised: which carry a loss [num_tokens].
        lengths: tokens of each row, at least one [num_rows].

    Returns:
        uint64 [num_rows, 2].
    """
    if not len(lengths):
        return np.zeros((0, 2), dtype=np.uint64)
    trained = supervised.astype(bool)
    firsts = np.cumsum(lengths) - lengths
    place = (np.arange(len(input_ids)) - np.repeat(firsts, lengths)).astype(np.uint64)
    ids = input_ids.astype(np.uint64)
    seen = np.cumsum(trained)
    is_prompt = seen == np.repeat(seen[firsts] - trained[firsts], lengths)
    ordered = place * np.uint64(0xC2B2AE3D27D4EB4F) + np.uint64(1)
    tokens = mixed(ids * np.uint64(0x9E3779B97F4A7C15) + ordered)
    marked = mixed((ids + (trained.astype(np.uint64) << np.uint64(40))) * np.uint64(0x9E3779B97F4A7C15) + ordered)
    prompts = np.where(is_prompt, tokens, np.uint64(0))
    return np.stack([np.add.reduceat(marked, firsts), np.add.reduceat(prompts, firsts)], axis=1)


def mixed(values: Hashes) -> Hashes:
    """The finaliser of splitmix64: nearby values become far apart.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: Hashes = values ^ (values >> np.uint64(31))
    return result
