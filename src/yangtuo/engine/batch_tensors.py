"""A layout as tensors on a device."""

from dataclasses import dataclass

import torch

from yangtuo.engine.attention import TreeRows
from yangtuo.engine.gather import Places, pinned, sent, sent_together
from yangtuo.engine.layout import Layout


@dataclass(frozen=True)
class Batch:
    """Tensors of a `Layout`, with the same names, shapes and types.

    Attributes:
        input_ids: int64 [B, T].
        position_ids: int64 [B, T]; None where the model counts them itself.
        row_lengths: int64 [B, T].
        attention_mask: bool [B, T].
        tree: the rows' places, where lines are not rows.
        keep: int64 [K].
        positions: int64 [N].
        cells: of the predictions, in the flattened [B, T] cells; None where every cell makes one.
        targets: int64 [N].
        weights: float32 [N].
        largest_weight: of them; 1 where none is more than 0.
        rows: rows of the data set.
        most_predictions: of this micro-batch on any rank, at most; all cut theirs into as many chunks.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor | None
    row_lengths: torch.Tensor
    attention_mask: torch.Tensor
    tree: TreeRows | None
    keep: torch.Tensor
    positions: torch.Tensor
    cells: Places | None
    targets: torch.Tensor
    weights: torch.Tensor
    largest_weight: float
    rows: tuple[int, ...]
    most_predictions: int

    @classmethod
    def of(cls, layout: Layout, device: torch.device) -> "Batch":
        """Copy a layout to a device; nothing waits for the copies."""
        tree = None if layout.sequences is None else TreeRows.of(layout.sequences, layout.num_cells, device)
        names = ("input_ids", "position_ids", "row_lengths", "keep", "positions", "targets")
        numbers = dict(zip(names, sent_together([getattr(layout, name) for name in names], device), strict=True))
        (cells,) = sent([Places.of(layout.cells, layout.num_cells)], device)
        # A tree gets a mask of ones too: without any, transformers looks for packed rows in the positions.
        if layout.attention_mask is None:
            mask = torch.ones(layout.input_ids.shape, dtype=torch.bool, device=device)
        else:
            mask = pinned(torch.from_numpy(layout.attention_mask).bool(), device).to(device, non_blocking=True)
        return cls(
            **numbers,
            attention_mask=mask,
            tree=tree,
            cells=cells,
            weights=pinned(torch.from_numpy(layout.weights), device).to(device, non_blocking=True),
            largest_weight=float(layout.weights.max(initial=0.0)) or 1.0,
            rows=layout.rows,
            most_predictions=layout.most_predictions,
        )
