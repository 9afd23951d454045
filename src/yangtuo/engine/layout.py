"""Rows of a micro-batch -> arrays for one forward pass. Pure: values in, values out.

Two layouts of the same rows. `share` makes a prefix tree: rows are sorted, a prefix that neighbours have in common
stands once, and nothing is padded. `pad` puts each row on a line of its own and fills up to the longest, for models
that need it. Both say the same about the loss: which positions predict which ids, and how much each counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from yangtuo.data.examples import Examples

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """One forward pass: B lines of T cells, K columns that reach the head, N distinct predictions.

    Attributes:
        input_ids: int64 [B, T].
        position_ids: int64 [B, T], place of each token in its own row.
        row_lengths: int64 [B, T], tokens of the row that a cell belongs to (of the first one, if several share it).
        sequences: for each row the cells of its tokens, in order, where the model attends along them (B = 1); None
            where lines are rows.
        attention_mask: int64 [B, T], 1 on real tokens, for lines that are rows. By length, never by id: a padding id
            that is also the end token must not hide it.
        keep: int64 [K], columns that reach the head.
        positions: int64 [N], index of each prediction in the flattened [B, K] columns.
        targets: int64 [N], ids to be predicted.
        weights: float32 [N]; what several rows predict at the same cell is one prediction with their summed weight.
        rows: rows of the data set, for messages.
        num_tokens: tokens of all rows.
        most_predictions: upper bound of N for the same micro-batch on every rank, where the plan says; else 0.
    """

    input_ids: Ints
    position_ids: Ints
    row_lengths: Ints
    sequences: tuple[Ints, ...] | None
    attention_mask: Ints | None
    keep: Ints
    positions: Ints
    targets: Ints
    weights: npt.NDArray[np.float32]
    rows: tuple[int, ...]
    num_tokens: int
    most_predictions: int = 0

    @property
    def num_cells(self) -> int:
        """Cells that the model computes: B x T."""
        return int(self.input_ids.size)

    @property
    def cells(self) -> Ints:
        """Int64 [N], index of each prediction in the flattened [B, T] cells."""
        lines, columns = np.divmod(self.positions, max(len(self.keep), 1))
        cells: Ints = lines * self.input_ids.shape[1] + self.keep[columns]
        return cells


def share(examples: Examples, rows: Sequence[int] | Ints, weights: npt.NDArray[np.float64]) -> Layout:
    """Lay rows out as a prefix tree, one cell for each distinct prefix.

    Args:
        examples: the data set.
        rows: which of its rows.
        weights: for each of them, the weight of a supervised token.
    """
    ids = [examples.row(int(row))[0] for row in rows]
    shared = common_prefixes(ids)
    input_ids: list[Any] = []
    row_lengths: list[Any] = []
    position_ids: list[Any] = []
    sequences: dict[int, Ints] = {}
    previous: Ints = np.zeros(0, dtype=np.int64)
    num_cells = 0
    for i, num_shared in shared:
        num_own = len(ids[i]) - num_shared
        previous = np.concatenate([previous[:num_shared], np.arange(num_cells, num_cells + num_own)])
        sequences[i] = previous
        input_ids.append(ids[i][num_shared:])
        position_ids.append(np.arange(num_shared, len(ids[i])))
        row_lengths.append(np.full(num_own, len(ids[i])))
        num_cells += num_own
    predictions = _Predictions()
    for i, row in enumerate(rows):
        own_weights = examples.row_weights(int(row))[1:]
        at = np.flatnonzero(own_weights)  # position j predicts token j + 1
        predictions.add(sequences[i][at], ids[i][at + 1], own_weights[at] * weights[i])
    cells, targets, target_weights = predictions.merged()
    keep, positions = np.unique(cells, return_inverse=True)
    return Layout(
        input_ids=np.concatenate(input_ids).astype(np.int64)[None],
        position_ids=np.concatenate(position_ids)[None],
        row_lengths=np.concatenate(row_lengths)[None],
        sequences=tuple(sequences[i] for i in range(len(rows))),
        attention_mask=None,
        keep=keep,
        positions=positions,
        targets=targets,
        weights=target_weights,
        rows=tuple(int(row) for row in rows),
        num_tokens=sum(len(row) for row in ids),
    )


def without_ends(tree: Layout) -> Layout:
    """A layout of `share` without the cells behind each row's last prediction, which no prediction needs.

    For reading alone: what a row ends with is predicted and never looked back at. A row without a prediction keeps its
    first cell. `num_tokens` still counts all tokens of the rows.
    """
    assert tree.sequences is not None
    cells = tree.cells
    ends = [int(np.flatnonzero(np.isin(row, cells)).max(initial=0)) + 1 for row in tree.sequences]
    cut = [row[:end] for row, end in zip(tree.sequences, ends, strict=True)]
    kept = np.unique(np.concatenate(cut))
    keep, positions = np.unique(np.searchsorted(kept, cells), return_inverse=True)
    return replace(
        tree,
        input_ids=tree.input_ids[:, kept],
        position_ids=tree.position_ids[:, kept],
        row_lengths=tree.row_lengths[:, kept],
        sequences=tuple(np.searchsorted(kept, row) for row in cut),
        keep=keep,
        positions=positions,
    )


def pad(examples: Examples, rows: Sequence[int] | Ints, weights: npt.NDArray[np.float64]) -> Layout:
    """Lay rows out on lines of their own; arguments as in `share`.

    Padding carries id 0; it is masked, so which id it is makes no difference.
    """
    taken = [examples.row(int(row)) for row in rows]
    num_columns = max(len(ids) for ids, _ in taken)
    ids_BT = np.zeros((len(taken), num_columns), dtype=np.int64)
    mask_BT = np.zeros_like(ids_BT)
    lengths_BT = np.ones_like(ids_BT)
    predictions = _Predictions()
    for b, (ids, _) in enumerate(taken):
        ids_BT[b, : len(ids)] = ids
        mask_BT[b, : len(ids)] = 1
        lengths_BT[b] = len(ids)
        own_weights = examples.row_weights(int(rows[b]))[1:]
        at = np.flatnonzero(own_weights)
        predictions.add(b * num_columns + at, ids[at + 1], own_weights[at] * weights[b])
    cells, targets, target_weights = predictions.merged()
    lines, columns = np.divmod(cells, num_columns)
    keep, of_keep = np.unique(columns, return_inverse=True)
    return Layout(
        input_ids=ids_BT,
        position_ids=np.broadcast_to(np.arange(num_columns), ids_BT.shape).copy(),
        row_lengths=lengths_BT,
        sequences=None,
        attention_mask=mask_BT,
        keep=keep,
        positions=lines * len(keep) + of_keep,
        targets=targets,
        weights=target_weights,
        rows=tuple(int(row) for row in rows),
        num_tokens=int(mask_BT.sum()),
    )


def common_prefixes(ids: Sequence[npt.NDArray[np.integer[Any]]]) -> list[tuple[int, int]]:
    """Rows in lexicographic order of their ids, each with the length of the prefix that it and the one before share.

    The first has 0. The sum of lengths less these prefixes is the number of distinct prefixes, that is of cells.
    """
    # Big-endian bytes of non-negative numbers sort as the numbers do.
    order = sorted(range(len(ids)), key=lambda i: ids[i].astype(">i4").tobytes())
    return [(order[0], 0), *((b, _common(ids[a], ids[b])) for a, b in pairwise(order))]


def _common(a: npt.NDArray[np.integer[Any]], b: npt.NDArray[np.integer[Any]]) -> int:
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if len(different) else length


@dataclass
class _Predictions:
    """What is predicted where, collected row by row."""

    cells: list[Ints] = field(default_factory=list)
    targets: list[Ints] = field(default_factory=list)
    weights: list[npt.NDArray[np.float64]] = field(default_factory=list)

    def add(self, cells: Ints, targets: npt.NDArray[np.integer[Any]], weights: npt.NDArray[np.float64]) -> None:
        self.cells.append(cells)
        self.targets.append(targets.astype(np.int64))
        self.weights.append(weights)

    def merged(self) -> tuple[Ints, Ints, npt.NDArray[np.float32]]:
        """Cells, targets and weights, the same prediction once; in the order of cells."""
        cells, targets = np.concatenate(self.cells), np.concatenate(self.targets)
        base = int(targets.max(initial=0)) + 1
        pairs, inverse = np.unique(cells * base + targets, return_inverse=True)
        summed = np.bincount(inverse, weights=np.concatenate(self.weights), minlength=len(pairs))
        return pairs // base, pairs % base, summed.astype(np.float32)
